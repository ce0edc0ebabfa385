"""Other makers' INT8 beside ours: made, opened in their engines, or a row that says why not."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.latency import bench as latency
from benchmarks.latency import int8_tools, payoff, peers, worker
from benchmarks.latency.bench import AGAINST, Plan
from benchmarks.latency.engines import Engine, opened
from benchmarks.latency.images import read_images
from benchmarks.latency.peers import AS_RECORDED, Order, Original
from exporter.artifact import folder as artifact
from exporter.cli.commands import bench as command
from exporter.cli.main import main
from exporter.config import Trust
from exporter.machine.install import pip_line
from tests.benchmarks.latency.test_latency import SAMPLE
from tests.benchmarks.latency_jobs import row, tiny

QUICK = Plan(batches=(1,), rounds=2, seconds=0.0, warm_up_s=0.0)


def test_the_command_offers_what_can_be_timed() -> None:
    assert command._AGAINST == AGAINST


def test_a_package_that_is_missing_ends_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name)
    )
    monkeypatch.setattr(worker, "ask", lambda *_: pytest.fail("something was started"))
    path = str(tiny(tmp_path / "a").path)
    result = CliRunner().invoke(main, ["bench", path, "--against", "nncf", "--data", tiny_data])
    assert result.exit_code == 4
    assert "nncf needs" in result.stderr
    assert "[compare]'" in result.stderr


def test_a_peer_that_fails_is_a_row_and_its_jobs_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_data: str
) -> None:
    def ask(function: str, job: str, *_: Any) -> worker.Answer:
        if function == "benchmarks.latency.peers:answer":
            return {"error": "TFLite can't convert the network: no", "hint": None}
        assert json.loads(job)["engine"]["name"] != "tflite"
        return dict(SAMPLE)

    monkeypatch.setattr(worker, "ask", ask)
    monkeypatch.setattr(peers, "check", lambda _: None)
    one = tiny(tmp_path / "a")
    report = latency.bench([one], Plan(batches=(1, 2), data=tiny_data), ("keras", "tflite"))
    found = [(r.engine, r.batch, r.error) for r in report.rows if r.error]
    reason = "TFLite can't convert the network: no"
    assert found == [("tflite", 1, reason), ("tflite", 2, reason)]
    assert report.baseline == "keras"


def test_sentences_set_our_int8_beside_the_same_engines_own(tmp_path: Path) -> None:
    ours = tiny(tmp_path / "int8", precision="int8")
    rows = [row(str(ours.path), [2.0] * 5), row("quantize-static", [3.0] * 5)]
    found = payoff.beside_peers([ours, tiny(tmp_path / "fp32")], rows, "sweep")
    assert found == (
        "ort, batch 1: INT8 is 1.50x [1.50, 1.50] as fast as quantize_static's INT8 in onnxruntime",
    )
    assert payoff.beside_peers([ours], [rows[0], row("nncf", [3.0] * 5)], "sweep") == ()


def test_an_order_survives_its_way_into_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "make", lambda order: {"got": order})
    sent = Order(
        "nncf",
        tmp_path,
        tmp_path / "x",
        "npz:a",
        Original("a.keras", Trust(unsafe=True, imports=("own",))),
    )
    assert peers.answer(json.dumps(asdict(sent), default=str)) == {"got": sent}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, keras: Any) -> tuple[Any, Path, str]:
    """A small Keras file, its FP32 artefact, and data that fits them."""
    from exporter import pipeline
    from exporter.config import ExportConfig
    from tests.conftest import striped_images, write_photos
    from tests.exporter.networks import plain, save

    place = tmp_path_factory.mktemp("original")
    images, labels = striped_images(96)
    folder = place / "data"
    write_photos(folder / "train", images[:64], labels[:64])
    write_photos(folder / "test", images[64:], labels[64:])
    model = plain(keras)
    name = save(model, place / "plain.keras")
    data = f"folder:{folder}"
    config = ExportConfig(name, target="ort", output=place / "ort", data=data, preprocess="unit")
    return model, pipeline.export(config).path, data


@pytest.mark.tf
@pytest.mark.parametrize("name", list(peers.PEERS))
def test_a_peer_is_the_same_network_in_its_own_engine(
    name: str, original: tuple[Any, Path, str], tmp_path: Path
) -> None:
    for module in peers.PEERS[name].needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: {pip_line('compare')}")
    model, path, data = original
    made = worker.ask(
        "benchmarks.latency.peers:answer",
        json.dumps(asdict(Order(name, path, tmp_path, data, AS_RECORDED)), default=str),
        600,
    )
    assert "error" not in made, made
    assert made["settings"]["calibration_images"] == 64
    assert peers.file_bytes(name, tmp_path) > 0
    images = read_images(artifact.read(path), data, 3, lambda *_: None)[:3]
    with opened(Engine(name, name, tmp_path), 1) as engine:  # type: ignore[arg-type]
        (got,) = engine.runner.infer(engine.feed(images)).values()
        (one,) = engine.runner.infer(engine.feed(images[:1])).values()
    expected = model(images, training=False).numpy()
    # Eight bits of three layers on values of this size; another network is off by more than 1.
    np.testing.assert_allclose(got, expected, atol=0.1 * np.abs(expected).max())
    np.testing.assert_allclose(one, got[:1], atol=1e-5)


@pytest.mark.parametrize("vnni", [True, False])
def test_peers_get_settings_for_speed_that_keep_their_sums(vnni: bool) -> None:
    static = int8_tools.fastest_settings("quantize_static", vnni=vnni)
    assert static["per_channel"]
    assert static["reduce_range"] is not vnni
    nncf = int8_tools.fastest_settings("nncf", vnni=vnni)
    assert nncf["preset"] == "PERFORMANCE"
    assert nncf["overflow_fix"] == ("DISABLE" if vnni else "ENABLE")
