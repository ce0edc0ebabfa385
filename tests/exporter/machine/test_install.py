"""What pip is told to install goes by where the package came from."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.machine.install import pip_line


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (None, "pip install 'exporter[cpu]'"),
        (
            '{"url": "https://example.org/e.whl", "archive_info": {}}',
            "pip install 'exporter[cpu] @ https://example.org/e.whl'",
        ),
        (
            '{"url": "https://example.org/e.git", "vcs_info": {"vcs": "git", "commit_id": "1f"}}',
            "pip install 'exporter[cpu] @ git+https://example.org/e.git@1f'",
        ),
        ('{"url": "file:///home/me/exporter"}', "pip install '/home/me/exporter[cpu]'"),
        ('{"url": "file:///my%20own/exporter"}', "pip install '/my own/exporter[cpu]'"),
        ("damaged", "pip install 'exporter[cpu]'"),
    ],
)
def test_a_checkout_is_named_by_its_folder(
    monkeypatch: pytest.MonkeyPatch, record: str | None, line: str
) -> None:
    installed = SimpleNamespace(read_text=lambda _: record)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: installed)
    assert pip_line("cpu") == line


def test_a_package_that_is_only_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert pip_line("cpu,rtx") == "pip install 'exporter[cpu,rtx]'"
