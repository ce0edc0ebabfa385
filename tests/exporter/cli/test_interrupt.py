"""Ctrl-C stops the work even if a library swallows it."""

from __future__ import annotations

import contextlib
import signal

import pytest

from exporter.cli.console import progress_bars


def swallow_ctrl_c() -> None:
    with contextlib.suppress(BaseException):  # as a bare ``except:`` in a library does
        signal.raise_signal(signal.SIGINT)


def test_it_is_raised_again_at_the_next_report() -> None:
    with progress_bars(quiet=True) as progress:
        progress("export", 0, 2)
        swallow_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            progress("export", 1, 2)
        progress("export", 2, 2)  # it is done: nothing to stop
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_caller_stays() -> None:
    pressed = []
    old = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        with progress_bars(quiet=True) as progress:
            swallow_ctrl_c()
            progress("export", 1, 2)
    finally:
        signal.signal(signal.SIGINT, old)
    assert pressed == [True]
