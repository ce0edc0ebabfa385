"""The drift ladder on tiny graphs: what is wrong on purpose must be named, rung and layer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx import helper as oh

from benchmarks.accuracy import original
from benchmarks.drift import ladder as drift
from benchmarks.drift import layers as drift_layers
from benchmarks.drift import pictures as drift_pictures
from benchmarks.drift.graphs import Graphs
from benchmarks.report import read
from exporter.artifact import folder as artifact
from exporter.cli import drift as console_drift
from exporter.cli import passport
from exporter.cli.main import main
from exporter.errors import Missing, WrongUse
from exporter.network.sources import Port, Source
from exporter.passes import schemes
from exporter.passes.insert_qdq import InsertQdq, tensors_to_calibrate

SIDE, CLASSES, COUNT = 8, 6, 60
Climb = Callable[..., drift.Ladder]


class OnnxAsKeras:
    """A graph where the ladder would run Keras."""

    def __init__(self, source: Source) -> None:
        self._graph = source.model

    def __enter__(self) -> OnnxAsKeras:
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(self._graph, providers=providers)
        return self

    def __exit__(self, *_: object) -> None:
        del self._session

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"y": self._session.run(["y"], feeds)[0]}


def network(*, folded: bool, variance: float = 1.0) -> bytes:
    """Two convolutions, a batch norm behind the first, and 6 logits.

    As converted (an NHWC input, a Transpose), or NCHW with the batch norm folded by hand, where
    `variance` is that of its first channel.
    """
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.4, (4, 1, 3, 3))
    gain = rng.uniform(0.5, 1.5, 4) / np.sqrt([variance if folded else 1.0, 1, 1, 1])
    constants = {
        "w2": rng.normal(0, 0.4, (4, 4, 3, 3)),
        "head": rng.normal(0, 0.3, (4 * SIDE * SIDE, CLASSES)),
    }
    if folded:
        constants["w1"] = first * gain[:, None, None, None]
        shape = ["batch", 1, SIDE, SIDE]
        nodes = [oh.make_node("Conv", ["x", "w1"], ["normed"], name="conv1", pads=[1] * 4)]
    else:
        constants |= {"w1": first, "gain": gain[:, None, None]}
        shape = ["batch", SIDE, SIDE, 1]
        nodes = [
            oh.make_node("Transpose", ["x"], ["nchw"], name="nchw", perm=[0, 3, 1, 2]),
            oh.make_node("Conv", ["nchw", "w1"], ["plain"], name="conv1", pads=[1] * 4),
            oh.make_node("Mul", ["plain", "gain"], ["normed"], name="bn"),
        ]
    nodes += [
        oh.make_node("Relu", ["normed"], ["relu1"], name="relu1"),
        oh.make_node("Conv", ["relu1", "w2"], ["second"], name="conv2", pads=[1] * 4),
        oh.make_node("Relu", ["second"], ["relu2"], name="relu2"),
        oh.make_node("Flatten", ["relu2"], ["flat"], name="flatten"),
        oh.make_node("Gemm", ["flat", "head"], ["y"], name="head"),
    ]
    graph = oh.make_graph(
        nodes,
        "tiny",
        [oh.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [oh.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in constants.items()],
    )
    opset = [oh.make_opsetid("", 18)]
    data: bytes = oh.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return data


def quantized(graph: bytes, wrong: str | None = None) -> bytes:
    """Q/DQ by the CPU's scheme; the range of tensor `wrong` is a sixteenth of what it should be."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph)))
    scheme = schemes.lookup("cpu", reduce_range=True)
    tops = {"x": 1.0, "relu1": 4.0, "relu2": 12.0}
    names = tensors_to_calibrate(model, scheme)
    ranges = {n: (0.0, tops.get(n, 12.0) / (16 if n == wrong else 1)) for n in names}
    InsertQdq(scheme, ranges)(model)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE, 1), np.uint8)


def tiny() -> tuple[Source, np.ndarray]:
    """The honest graph as a source, and labels of which it has most right."""
    port, out = Port("x", (None, SIDE, SIDE, 1), "float32"), Port("y", (None, CLASSES), "float32")
    graph = network(folded=False)
    source = Source(
        "tiny", "keras", "", "", _unused, _unused, (port,), (out,), graph, (), "unit", ()
    )
    with OnnxAsKeras(source) as keras:
        labels = keras.infer({"x": pixels().astype(np.float32) / 255})["y"].argmax(-1)
    labels[::5] = np.arange(len(labels[::5])) % CLASSES  # not all right
    return source, labels


@pytest.fixture
def climb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Climb:
    """Climb a ladder whose Keras is the honest graph, and whose other graphs are given."""
    source, labels = tiny()
    np.savez(tmp_path / "data.npz", images=pixels(), labels=labels)
    monkeypatch.setattr(drift, "load_original", lambda *_: source)
    monkeypatch.setattr(original, "KerasRunner", OnnxAsKeras)

    def run(folded: bytes, written: bytes, target: str = "ort", **passport: Any) -> drift.Ladder:
        graphs = Graphs(source.model, folded, True, "the same as the artefact's, by hand")
        monkeypatch.setattr(drift, "remake", lambda *_: graphs)
        folder = tmp_path / "artefact"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(written)
        batch = {"min": 1, "opt": 1, "max": None}
        fields = {"target": target, "precision": "fp32", "layout": "nchw", "batch": batch}
        sealed = artifact.seal(folder, fields | passport)
        one = artifact.Artifact(folder, sealed)
        return drift.climb(one, f"npz:{tmp_path / 'data.npz'}")

    return run


def _unused(_: Any) -> Any:
    raise AssertionError("nothing here calls Keras")


def noise_of(ladder: drift.Ladder) -> dict[str, float]:
    return {rung.name: change.noise for rung, change in ladder.steps}


def test_an_honest_ladder_says_so(climb: Climb) -> None:
    graph = network(folded=True)
    ladder = climb(graph, graph)
    assert [rung.name for rung in ladder.rungs] == ["keras", "onnx", "folded", "engine"]
    assert max(noise_of(ladder).values()) < 1e-12  # float32 sums in another order
    assert ladder.verdict()["lost_most"] is None
    assert ladder.verdict()["sentence"].startswith("No rung has fewer correct images")
    assert not len(ladder.flipped)


def test_a_perturbed_batch_norm_is_named_rung_and_layer(climb: Climb) -> None:
    graph = network(folded=True, variance=30.0)
    ladder = climb(graph, graph)
    assert ladder.noisiest.name == "folded"
    assert ladder.verdict()["lost_most"] == "folded"
    walk = drift_layers.walk(ladder)
    assert (walk.before, walk.after) == ("onnx", "folded")
    assert (walk.worst.tensor, walk.worst.op) == ("normed", "Conv")
    by_name = {layer.tensor: layer for layer in walk.layers}
    assert list(by_name) == ["normed", "relu1", "second", "relu2", "y"]
    for after in ("second", "relu2", "y"):  # inherit it, and have none of their own
        assert by_name[after].total.ratio > 1e-3
        assert by_name[after].own.ratio < 1e-12
    assert by_name["second"].inherited == by_name["relu1"].total.ratio
    assert "normed" in walk.sentence()


def test_a_wrong_range_is_named_in_an_int8_ladder(climb: Climb) -> None:
    graph = network(folded=True)
    honest = climb(graph, quantized(graph), precision="int8", int8={})
    names = [rung.name for rung in honest.rungs]
    assert names == ["keras", "onnx", "folded", "simulated", "engine"]
    wrong = climb(graph, quantized(graph, wrong="relu1"), precision="int8", int8={})
    assert honest.noisiest.name == wrong.noisiest.name == "simulated"
    assert noise_of(wrong)["simulated"] > 20 * noise_of(honest)["simulated"]
    walk = drift_layers.walk(wrong)
    assert walk.worst.tensor == "relu1"
    assert walk.worst.own.ratio > 0.1  # nearly all of its range is cut off


def test_the_fused_engine_is_walked_as_it_fuses(climb: Climb) -> None:
    graph = network(folded=True)
    ladder = climb(graph, quantized(graph), precision="int8", int8={})
    walk = drift_layers.walk(ladder, "engine")
    assert (walk.before, walk.after) == ("simulated", "engine")
    # Integer kernels round where float ones do, but for ties: a step here and there at most.
    assert max(layer.own.ratio for layer in walk.layers) < 1e-3


def test_classes_add_up(climb: Climb) -> None:
    graph = network(folded=True, variance=30.0)
    ladder = climb(graph, graph)
    for rung in ladder.rungs:
        assert rung.accuracy is not None
        assert sum(rung.correct) == rung.accuracy.correct
    previous = ladder.rungs[0]
    for rung, change in ladder.steps:
        tested = change.accuracy.paired
        assert tested is not None
        assert (sum(change.won), sum(change.lost)) == (tested.won, tested.lost)
        gained = np.subtract(rung.correct, previous.correct)
        assert np.array_equal(gained, np.subtract(change.won, change.lost))
        previous = rung
    flips = [change.accuracy.against_keras for _, change in ladder.steps]
    assert sum(one.label_flips for one in flips if one) >= len(ladder.flipped) > 0


def test_an_engine_that_is_not_here_is_said_not_run(
    climb: Climb, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = network(folded=True)
    record = {"trt": {"compiled": False, "executed": "not run on a GPU"}}
    ladder = climb(graph, quantized(graph), "trt", precision="int8", int8={}, **record)
    assert ladder.rungs[-1].not_run == "not run on a GPU: it is not compiled"
    assert [rung.name for rung in ladder.rungs if rung.accuracy][-1] == "simulated"

    def refuse(_: object) -> None:
        raise Missing("this CPU has no bf16")

    monkeypatch.setattr(drift.targets, "open_artifact", refuse)
    ladder = climb(graph, graph, "openvino", precision="bf16")
    assert ladder.rungs[-1].not_run == "not run: this CPU has no bf16"


def test_sqnr_by_hand() -> None:
    labels = np.array([0, 1])
    change = drift.changed("one", np.array([[3.0, 4.0]] * 2), np.array([[3.0, 5.0]] * 2), labels)
    assert change.sqnr_db == pytest.approx(13.9794, abs=1e-4)  # 10 log10(25 / 1)
    assert drift.sqnr_db(0.0) == math.inf


@given(st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_ten_times_the_error_is_twenty_decibels_worse(size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, error = rng.normal(size=(2, 4, 3))
    near, far = drift_layers.Noise(), drift_layers.Noise()
    for row in range(4):  # in batches
        near.add(reference[row], reference[row] + size * error[row])
        far.add(reference[row], reference[row] + 10 * size * error[row])
    whole = 10 * math.log10(np.square(reference).sum() / np.square(size * error).sum())
    assert drift.sqnr_db(near.ratio) == pytest.approx(whole, abs=1e-6)
    assert drift.sqnr_db(near.ratio) - drift.sqnr_db(far.ratio) == pytest.approx(20, abs=1e-6)


def test_chance_is_called_chance(climb: Climb) -> None:
    """The worst of several rungs: 2 lost of 2 has p 0.5; 12 of 12 has 0.00049, three times that."""
    graph = network(folded=True)
    ladder = climb(graph, graph)
    right = np.zeros((COUNT, CLASSES), np.float32)
    right[np.arange(COUNT), ladder.images.labels] = 1
    for lost, chance in ((2, True), (12, False)):
        worse = right.copy()
        worse[:lost] = np.roll(worse[:lost], 1, axis=1)
        changes = [(right, right), (right, right), (right, worse)]
        rungs = [ladder.rungs[0]]
        for step, (before, after) in zip(ladder.made.steps[1:], changes, strict=True):
            rungs.append(drift._measured(step, after, ladder.images.labels, right, before))
        changed = drift.Ladder(ladder.made, ladder.images, tuple(rungs), ladder.predictions)
        verdict = changed.verdict()
        assert (verdict["lost_most"], verdict["chance"]) == ("engine", chance)
        assert verdict["p_corrected"] == pytest.approx(min(1, 3 * 2 * 0.5**lost))


def test_report_is_written_whole_and_fits_the_screen(
    climb: Climb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    graph = network(folded=True, variance=30.0)
    ladder = climb(graph, quantized(graph), precision="int8", int8={})
    walk = drift_layers.walk(ladder)
    drift_pictures.write(ladder, walk, tmp_path / "drift")
    files = {path.name for path in (tmp_path / "drift").iterdir()}
    assert files == {"ladder.json", "ladder.png", "layers.png", "flips.png"}
    found = json.loads((tmp_path / "drift" / "ladder.json").read_text())
    assert found["verdict"]["most_noise"] == "folded"
    first = found["flipped"][0]
    assert first["label"] == ladder.images.labels[first["image"]]
    assert list(first["predictions"].values()) == list(ladder.predictions[:, first["image"]])
    (reported,) = read.gather(tmp_path / "drift", passport.passport_lines).drifts
    assert (reported.sentence, len(reported.flips)) == (
        found["verdict"]["sentence"],
        len(ladder.flipped),
    )
    assert reported.picture == tmp_path / "drift" / "flips.png"
    with pytest.raises(WrongUse, match="already exists"):
        drift_pictures.write(ladder, walk, tmp_path / "drift")
    monkeypatch.setenv("COLUMNS", "100")
    console_drift.show_ladder(ladder)
    console_drift.show_walk(walk)
    shown = capsys.readouterr().out
    assert "The largest loss is at folded" in shown
    tables = [line for line in shown.splitlines() if line[:1] in "┏┃┡│└"]
    assert tables
    assert max(map(len, tables)) <= 100


def test_a_rung_that_cannot_be_walked_is_refused(climb: Climb) -> None:
    graph = network(folded=True)
    with pytest.raises(WrongUse, match="onnx"):
        drift_layers.walk(climb(graph, graph), "onnx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--layers",), "--layers needs --ladder"),
        (("--ladder", "--rung", "folded"), "--rung needs --layers"),
        (("-o", "new"), "--output needs --ladder"),
        (("other", "--ladder"), "one artifact"),
        (("--ladder", "-o", "."), "already exists"),
    ],
)
def test_conflicts_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if "." in options:
        options = (*options[:-1], str(tmp_path))
    result = CliRunner().invoke(main, ["evaluate", "one", "--data", "npz:x", *options])
    assert result.exit_code == 2
    assert words in result.stderr
