"""The exit codes and messages that the command line promises."""

from __future__ import annotations

import pytest

from exporter.errors import (
    ConversionError,
    ExporterError,
    GateRefused,
    Missing,
    WrongUse,
    unknown_name,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ExporterError, 1), (ConversionError, 1), (WrongUse, 2), (GateRefused, 3), (Missing, 4)],
)
def test_every_error_is_one_family_and_knows_its_exit_code(
    kind: type[ExporterError], code: int
) -> None:
    with pytest.raises(ExporterError) as caught:
        raise kind("went wrong", hint="do this")
    assert caught.value.exit_code == code


def test_text_is_the_message_then_the_hint() -> None:
    error = ExporterError("went wrong", hint="do this")
    assert (error.message, error.hint) == ("went wrong", "do this")
    assert str(error) == "went wrong\ndo this"


def test_text_without_a_hint_is_the_message() -> None:
    assert str(ExporterError("went wrong")) == "went wrong"


def test_unknown_name_lists_the_nearest_first() -> None:
    error = unknown_name("model", "resnet81", ["vgg16", "resnet50", "resnet18"])
    assert isinstance(error, WrongUse)
    assert error.message == "unknown model 'resnet81'"
    assert error.hint is not None
    assert error.hint.startswith("did you mean: resnet18")
    assert "vgg16" not in error.hint


def test_unknown_name_like_no_other_lists_all() -> None:
    error = unknown_name("model", "zzz", ["vgg16", "resnet50"])
    assert error.hint == "known: vgg16, resnet50"


def test_unknown_name_takes_any_iterable() -> None:
    assert unknown_name("model", "zzz", iter(["a1", "b2"])).hint == "known: a1, b2"
