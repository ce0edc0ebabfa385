"""Engines opened as they were built, with stand-ins for TensorRT: nothing ran on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter import targets
from exporter.errors import ExporterError, Missing
from exporter.finish import finish
from exporter.targets import trt
from tests.exporter.targets import tiny


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"dla_core": 1}])
def test_an_engine_is_opened_as_it_was_built(
    stand_ins: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    """A lean runtime inside must be allowed, and a DLA core named: neither is remembered."""
    path = tiny.handed_over(tmp_path / "a", precision="int8", batch=1, options=options)
    done = finish(path)
    assert "layers.json" in done.passport["files"], "it was loaded once, for the record"
    with targets.open_artifact(done) as runner:
        feeds = {"x": np.ones((1, 3, 16, 16), np.float32)}
        np.testing.assert_array_equal(runner.infer(feeds)["doubled"], 2)


def test_a_network_that_no_dla_can_run_is_not_built_for_one(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins.Config, "can_run_on_DLA", lambda self, layer: False)
    path = tiny.handed_over(tmp_path / "a", precision="int8", batch=1, options={"dla_core": 1})
    with pytest.raises(ExporterError, match="none of the network's 4 layers can run on a DLA"):
        finish(path)


def test_libraries_that_do_not_load_are_missing(
    stand_ins: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(trt.importlib, "import_module", fail)
    with pytest.raises(Missing, match=r"does not load: libnvinfer\.so\.10") as caught:
        trt.load_module()
    assert "LD_LIBRARY_PATH" in str(caught.value.hint)
