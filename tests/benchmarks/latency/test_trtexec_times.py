"""trtexec's records against the summary that trtexec itself printed of the same run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.latency.trtexec_times import as_row, read_profile, read_times, summarize
from exporter.errors import ExporterError

RECORDS = Path(__file__).parents[2] / "data" / "trt-records"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trtexec") / "times.json"
    file.write_bytes(gzip.decompress((RECORDS / "mobilenet.qat.timing.json.gz").read_bytes()))
    return file


def test_summary_is_trtexecs_own(record: Path) -> None:
    printed = json.loads((RECORDS / "mobilenet.qat.summary.json").read_text())
    printed = printed["performance_summary"]
    times = read_times(record)
    for values, name in ((times.latency, "Latency"), (times.compute, "GPU Compute Time")):
        found = summarize(values)
        got = [found.minimum, found.maximum, found.mean, found.median]
        got += [found.p90, found.p95, found.p99]
        assert got == pytest.approx(printed[name], rel=1e-5)  # six digits are printed
    assert sum(times.compute) / 1000 == pytest.approx(printed["Total GPU Compute Time"], rel=1e-5)
    # Its wall clock starts a little later than the first enqueue that it counts.
    assert times.throughput == pytest.approx(printed["Throughput"], rel=5e-4)
    assert summarize(times.enqueue).mean == pytest.approx(printed["Enqueue Time"][2], rel=5e-3)
    assert not times.has_copies
    assert not times.enqueue_bound


def test_row_has_the_shape_of_all_others_and_its_settings(record: Path) -> None:
    row = as_row("trt", 1, read_times(record), {"cuda_graph": True})
    assert row.quantiles_ms["50"] == 0.351196
    assert row.throughput == pytest.approx(2829.15, rel=5e-4)
    assert row.settings["cuda_graph"] is True
    assert row.settings["transfers"] is False
    assert json.loads(json.dumps(row.as_json()))["blocks"][0]["load"]["others"] is None


def test_profile_by_layer() -> None:
    layers = read_profile(RECORDS / "mobilenet.qat.profile.json")
    assert len(layers) == 73
    assert layers[0].name == "QuantizeLinear_2"
    assert layers[0].mean_ms == 0.00474854
    assert sum(layer.share for layer in layers) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '[{"latencyMs": 1}]', "[1]"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    for read in (read_times, read_profile):
        with pytest.raises(ExporterError):
            read(file)


def test_a_run_shorter_than_its_warm_up_is_refused(record: Path) -> None:
    with pytest.raises(ExporterError, match="after 9000 ms"):
        read_times(record, warm_up_ms=9000)
