from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from calibration.collect import Collected, Options, Session, collect
from calibration.errors import NoData, NotFinite, WrongRequest
from calibration.observers import Histogram, find_range

MODEL = onnx.parser.parse_model(
    """
    <ir_version: 10, opset_import: ["" : 18]>
    small (float[N, 2, 6, 6] image) => (float[N, 3, 6, 6] out)
    {
        convolved = Conv <pads = [1, 1, 1, 1]> (image, weight)
        active = Relu (convolved)
        again = Conv <pads = [1, 1, 1, 1]> (active, weight2)
        summed = Add (again, active)
        out = Relu (summed)
        total = ReduceSum <keepdims = 0> (out)
    }
    """
)
RNG = np.random.default_rng(11)
MODEL.graph.initializer.extend(
    onnx.numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)
    for name, shape in [("weight", (3, 2, 3, 3)), ("weight2", (3, 3, 3, 3))]
)
IMAGES = RNG.normal(size=(100, 2, 6, 6)).astype(np.float32)
TENSORS = ["image", "convolved", "active", "summed", "out"]


def reference(graph: bytes) -> Session:
    return ReferenceEvaluator(graph)


def batches(size: int, images: np.ndarray = IMAGES) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(images), size):
        yield {"image": images[start : start + size]}


def run(size: int = 10, images: int = 100, **more) -> Collected:
    more = {"open_session": reference, "tensors": TENSORS, **more}
    data = more.pop("batches", batches(size))
    return collect(more.pop("model", MODEL), more.pop("tensors"), data, images=images, **more)


def direct() -> dict[str, Histogram]:
    """Observe what onnx's reference computes, tensor by tensor, in one batch."""
    evaluator = ReferenceEvaluator(MODEL, verbose=0)
    values = {"image": IMAGES}
    for node in evaluator.rt_nodes_:
        feeds = [values.get(name, evaluator.rt_inits_.get(name)) for name in node.input]
        values[node.output[0]] = node.run(*feeds)[0]
    histograms = {name: Histogram() for name in TENSORS}
    for name, histogram in histograms.items():
        histogram.observe(values[name])
    return histograms


def same(one: Histogram, other: Histogram) -> bool:
    return (
        np.array_equal(one.counts, other.counts)
        and (one.exponent, one.low, one.high) == (other.exponent, other.low, other.high)
    )  # fmt: skip


def test_histograms_are_those_of_the_reference_evaluator() -> None:
    found, expected = run().histograms, direct()
    assert list(found) == TENSORS
    assert all(same(found[name], expected[name]) for name in TENSORS)


@pytest.mark.parametrize("form", [MODEL.SerializeToString(), ir.from_proto(MODEL)])
def test_a_model_may_come_in_any_form(form: bytes | ir.Model) -> None:
    found = collect(form, TENSORS, batches(50), images=100, open_session=reference)
    assert same(found.histograms["out"], run().histograms["out"])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_onnxruntime_gives_the_same_ranges_at_any_optimisation(level: str) -> None:
    ort = pytest.importorskip("onnxruntime")

    def opened(graph: bytes) -> Session:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    found, expected = run(open_session=opened).histograms, direct()
    for name in TENSORS:
        # Sums of 27 products in another order: 27 * 2**-24 of the sum of magnitudes.
        assert found[name].low == pytest.approx(expected[name].low, rel=1e-5, abs=1e-5)
        assert found[name].high == pytest.approx(expected[name].high, rel=1e-5)
        moved = np.abs(np.cumsum(found[name].counts - expected[name].counts)).max()
        assert moved <= 0.001 * expected[name].count  # values that lie at a bin's very edge


def test_batch_size_and_threads_do_not_matter() -> None:
    one = run(1, options=Options(workers=1))
    for size, workers in [(7, 2), (100, 3)]:
        other = run(size, options=Options(workers=workers))
        assert all(same(one.histograms[name], other.histograms[name]) for name in TENSORS)
        assert one.convergence == other.convergence


def test_only_the_images_asked_for_count_and_no_more_are_read() -> None:
    data = batches(10)
    found = run(images=25, batches=data)
    assert found.images == 25
    assert found.histograms["image"].count == 25 * 72
    assert next(data)["image"] is not None
    np.testing.assert_array_equal(next(data)["image"], IMAGES[40:50])


def test_convergence_is_recorded_at_doublings_and_at_the_end() -> None:
    found = run()
    assert [snapshot.images for snapshot in found.convergence] == [16, 32, 64, 100]
    first = Histogram()
    first.observe(IMAGES[:16])
    expected = find_range(first, "entropy", "symmetric").amax
    assert found.convergence[0].amax["image"] == expected
    assert not found.stopped_early


@pytest.mark.parametrize("size", [1, 30, 100])
def test_a_pass_stops_once_two_doublings_change_little(size: int) -> None:
    options = Options(method="minmax", tolerance=1.0)
    found = run(size, options=options)
    assert (found.images, found.stopped_early) == (64, True)
    assert found.histograms["image"].count == 64 * 72
    assert not run(size, options=replace(options, tolerance=0.0)).stopped_early


def test_progress_ends_its_stage() -> None:
    calls: list[tuple[str, int, int, str]] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        calls.append((stage, done, total, note))

    run(30, progress=progress)
    assert [call[1:3] for call in calls] == [(30, 100), (60, 100), (90, 100), (100, 100)]
    assert calls[-1][3].startswith("scales moved")
    run(30, progress=progress, options=Options(tolerance=1.0))
    assert calls[-1][1:3] == (64, 64)


def test_poor_class_balance_is_in_the_result() -> None:
    labels = np.where(np.arange(100) < 50, 0, np.arange(100) % 3)
    (warning,) = run(images=60, labels=labels).warnings
    assert warning == "poor class balance in 60 calibration images (class 1: 3, class 2: 4)"
    assert run(labels=np.arange(100) % 3).warnings == ()
    assert "class 3: 0" in run(labels=np.arange(100) % 3, classes=4).warnings[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [1, 16, 100])
def test_not_finite_names_tensor_and_image(bad: float, size: int) -> None:
    images = IMAGES.copy()
    images[41, 1, 2, 3] = bad
    images[77] = bad
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(NotFinite, match=r"'image'.* image 41\n") as e,
    ):
        run(size, batches=batches(size, images), tensors=["image"])
    assert e.value.index == 41
    with np.errstate(invalid="ignore"), pytest.raises(NotFinite, match=r"'summed'.* image 41\n"):
        run(size, batches=batches(size, images), tensors=["summed"])


def test_absent_data_is_refused() -> None:
    with pytest.raises(NoData, match="no calibration images"):
        run(batches=iter([]))
    with pytest.raises(NoData, match="has 100 calibration images, and 101 are needed"):
        run(images=101)
    exhausted = batches(10)
    list(exhausted)
    with pytest.raises(NoData, match="no calibration images"):
        run(batches=exhausted)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(WrongRequest, match="'activ'") as caught:
        run(tensors=["activ"])
    assert caught.value.hint == "did you mean: active?"
    for tensors in ([], ["out", "out"], ["weight"]):
        with pytest.raises(WrongRequest):
            run(tensors=tensors)
    with pytest.raises(WrongRequest, match="at least one"):
        run(images=0)
    with pytest.raises(WrongRequest, match="only 99 labels for 100"):
        run(labels=np.zeros(99, np.int64))
    with pytest.raises(WrongRequest, match="unknown calibrator"):
        run(options=Options(method="best"))
    for feeds in ({}, {"image": IMAGES[:0]}, {"image": IMAGES, "other": IMAGES[:3]}):
        with pytest.raises(WrongRequest, match="first axis"):
            run(batches=iter([feeds]))


# The images may be behind the steps (a recurrence), or share an axis with them (a dense layer of a
# sequence); what passes through a loop has no images.
LAYOUTS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,6,4] x) => (float[6,N,4] first, float[M,4] flat, float total) {
    first = Transpose <perm = [1, 0, 2]> (x)
    rows = Constant <value_ints = [-1, 4]> ()
    flat = Reshape (x, rows)
    total = Constant <value_float = 3.0> ()
    summed = ReduceSum <keepdims = 0> (x)
    alone = Mul (summed, total)
    ahead = Identity (first)
    behind = Identity (flat)
}
"""


def test_images_are_counted_on_any_axis() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6, 4)).astype(np.float32)
    model = onnx.parser.parse_model(LAYOUTS)
    batches = [{"x": x[i : i + 20]} for i in (0, 20, 40)]
    names = ["x", "ahead", "behind"]
    found = run(model=model, tensors=names, batches=iter(batches), images=45).histograms
    expected = np.abs(x[:45]).max()
    for name in names:
        assert max(-found[name].low, found[name].high) == expected, name
        assert found[name].count == 45 * 24, f"{name}: the last batch is cut to 5 images"


def test_a_tensor_without_images_is_seen_once_per_batch() -> None:
    model = onnx.parser.parse_model(LAYOUTS)
    x = np.ones((3, 6, 4), np.float32)
    found = run(model=model, tensors=["alone"], batches=iter([{"x": x}]), images=3).histograms
    assert found["alone"].high == 3 * 72
    assert found["alone"].count == 1


def test_one_session_and_an_unchanged_model() -> None:
    before = MODEL.SerializeToString()
    opened: list[bytes] = []

    def counting(graph: bytes) -> Session:
        opened.append(graph)
        return reference(graph)

    run(open_session=counting)
    assert len(opened) == 1
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(onnx.load_from_string(opened[0])))
    assert MODEL.SerializeToString() == before


def test_peak_memory_does_not_grow_with_images() -> None:
    def peak(images: int) -> int:
        data = ({"image": IMAGES[:20]} for _ in range(images // 20))
        tracemalloc.start()
        run(images=images, batches=data, tensors=["image"], options=Options(method="minmax"))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(40)
    # Ten times the images may add three snapshots; one image is 288 bytes, 1800 are 500 kB.
    assert peak(2000) < peak(200) + 50_000
