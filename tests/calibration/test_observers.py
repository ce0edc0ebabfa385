from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy as scipy_entropy

from calibration.entropy import STRIDE, divergences, entropy_amax
from calibration.errors import NoData, WrongRequest
from calibration.observers import CALIBRATORS, Histogram, Kind, find_range
from calibration.scales import affine_scale_zero_point, symmetric_scale

BOUND = float(np.float32(1e30))
ARRAYS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-BOUND, BOUND, width=32))
KINDS: tuple[Kind, ...] = ("symmetric", "affine")
RNG = np.random.default_rng(7)
SHAPES: dict[str, Callable[[], np.ndarray]] = {
    "normal": lambda: RNG.normal(size=60_000),
    "relu": lambda: np.maximum(RNG.normal(size=60_000), 0),
    "laplace": lambda: RNG.laplace(size=60_000),
    "skew": lambda: np.where(RNG.random(60_000) < 0.5, -0.1, 1) * RNG.exponential(size=60_000),
    "shifted": lambda: RNG.normal(3, 0.4, size=60_000),
    "negative": lambda: -RNG.exponential(size=60_000),
}


def of(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    histogram.observe(values)
    return histogram


@pytest.mark.parametrize("method", CALIBRATORS)
@settings(max_examples=25, deadline=None)
@given(ARRAYS)
def test_any_finite_data_gives_a_usable_scale(method: str, values: np.ndarray) -> None:
    histogram = of(values)
    symmetric = find_range(histogram, method, "symmetric")
    affine = find_range(histogram, method, "affine")
    assert symmetric.low == -symmetric.high
    assert 0 <= symmetric.amax <= np.abs(values).max()
    assert min(values.min(), 0) <= affine.low <= 0 <= affine.high <= max(values.max(), 0)
    scales = [symmetric_scale(symmetric.amax), affine_scale_zero_point(affine.low, affine.high)[0]]
    assert all(np.isfinite(scale) and scale > 0 for scale in scales)


@pytest.mark.parametrize("method", CALIBRATORS)
@pytest.mark.parametrize("value", [0, 1e-45, -1e-40, 5, -5, 1e30])
def test_a_constant_tensor_keeps_its_constant(method: str, value: float) -> None:
    histogram = of(np.full(1000, value, np.float32))
    amax = abs(float(np.float32(value)))
    # The error allowed is MSE's: it may clip where that rounds the one value better.
    assert find_range(histogram, method, "symmetric").amax == pytest.approx(amax, rel=1e-2)
    affine = find_range(histogram, method, "affine")
    assert affine.low <= 0 <= affine.high
    assert affine.high - affine.low == pytest.approx(amax, rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_minmax(shape: str) -> None:
    values = SHAPES[shape]().astype(np.float32)
    affine = find_range(of(values), "minmax", "affine")
    assert (affine.low, affine.high) == (min(values.min(), 0), max(values.max(), 0))
    assert find_range(of(values), "minmax", "symmetric").amax == np.abs(values).max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("percent", [99.99, 99.9, 90, 100])
def test_percentile_is_numpy_s_to_within_a_bin(shape: str, percent: float) -> None:
    values = SHAPES[shape]().astype(np.float32)
    histogram = of(values)

    def sorted_percentile(data: np.ndarray, q: float) -> float:
        # "inverted_cdf" returns a value of the data, whose bin ours is found in. In float64:
        # older numpy rounds the share itself to the data's type.
        return float(np.percentile(data.astype(np.float64), q, method="inverted_cdf"))

    symmetric = find_range(histogram, "percentile", "symmetric", percentile=percent)
    expected = sorted_percentile(np.abs(values), percent)
    assert abs(symmetric.amax - expected) <= histogram.width
    affine = find_range(histogram, "percentile", "affine", percentile=percent)
    one_sided = values.min() >= 0 or values.max() <= 0
    tail = 0 if one_sided else (100 - percent) / 2
    low, high = sorted_percentile(values, tail), sorted_percentile(values, 100 - tail)
    if one_sided:
        low, high = max(low, -expected), min(high, expected)
    assert abs(affine.low - min(low, 0)) <= histogram.width
    assert abs(affine.high - max(high, 0)) <= histogram.width


def plain_divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """Follow Migacz's slides one bin at a time."""
    reference = counts[:end].astype(float)
    reference[-1] += counts[end:].sum()
    candidate = np.zeros(end)
    group = np.array([math.floor(j * levels / end) for j in range(end)])
    for k in range(levels):
        filled = (group == k) & (counts[:end] > 0)
        if filled.any():
            candidate[filled] = counts[:end][filled].sum() / filled.sum()
    return float(scipy_entropy(reference, candidate)) if candidate.any() else math.inf


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.int64, st.integers(8, 40), elements=st.integers(0, 50)),
    st.sampled_from([4, 5, 8]),
)
def test_divergences_are_scipy_s(counts: np.ndarray, levels: int) -> None:
    counts[-1] += 1
    ends = np.arange(levels, counts.size + 1)
    expected = [plain_divergence(counts, end, levels) for end in ends]
    # float64 sums of n ln n lose at most a few ulps of N ln N, which is then divided by N.
    np.testing.assert_allclose(divergences(counts, ends, levels), expected, atol=1e-12)


@pytest.mark.parametrize("levels", [128, 255])
def test_entropy_is_the_brute_force_optimum(levels: int) -> None:
    # A Laplacian without sampling noise, 17 times as wide as its scale: its tail wants clipping.
    counts = np.rint(1e6 * np.exp(-np.arange(1024) / 60)).astype(np.int64) + 1
    amax = entropy_amax(counts, 1.0, float(counts.size), levels)
    zeroed = counts.copy()
    zeroed[0] = counts[1]
    ends = range(counts.size, 500, -STRIDE)  # far on both sides of the optimum
    brute = {end: plain_divergence(zeroed, end, levels) for end in ends}
    assert brute[int(amax)] == pytest.approx(min(brute.values()), abs=1e-12)
    assert 600 < amax < counts.size


def test_zeros_do_not_change_the_entropy_range() -> None:
    positive = RNG.exponential(size=100_000).astype(np.float32)
    with_zeros = np.concatenate([positive, np.zeros(900_000, np.float32)])
    for kind in KINDS:
        ranges = [find_range(of(data), "entropy", kind) for data in (positive, with_zeros)]
        assert ranges[0] == ranges[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_clips_both_kinds_at_one_magnitude(shape: str) -> None:
    histogram = of(SHAPES[shape]())
    amax = find_range(histogram, "entropy", "symmetric").amax
    affine = find_range(histogram, "entropy", "affine")
    assert affine.low == min(max(histogram.low, -amax), 0)
    assert affine.high == max(min(histogram.high, amax), 0)


def test_a_constant_background_does_not_cut_the_affine_range() -> None:
    """A convolution makes one value a channel of it: narrow peaks below an exponential tail.

    255 groups, as many as an unsigned grid has steps, cut off 15% of these values.
    """
    rng = np.random.default_rng(2)
    peaks = np.repeat(rng.uniform(0, 0.8, 32), 1500)
    histogram = of(np.concatenate([peaks, rng.exponential(0.6, 60_000)]))
    affine = find_range(histogram, "entropy", "affine")
    assert histogram.share_outside(affine.low, affine.high) < 0.01


def symmetric_error(values: np.ndarray, amax: float) -> float:
    scale = amax / 127
    return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))


def affine_error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return float(np.mean((rounded - values) ** 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_the_brute_force_optimum(shape: str) -> None:
    values = SHAPES[shape]()[:20_000]
    histogram = of(values)
    amax = np.abs(values).max()
    # 1%: bins are 1/4096 of the range or finer, the search's last steps 0.4%, and the optimum flat.
    best = min(symmetric_error(values, amax * i / 200) for i in range(10, 201))
    assert symmetric_error(values, find_range(histogram, "mse", "symmetric").amax) <= 1.01 * best
    least, greatest = min(values.min(), 0), max(values.max(), 0)
    lows = [least * i / 30 for i in range(5, 31)] if least else [0.0]
    highs = [greatest * i / 30 for i in range(5, 31)] if greatest else [0.0]
    best = min(affine_error(values, low, high) for low in lows for high in highs)
    affine = find_range(histogram, "mse", "affine")
    assert affine_error(values, affine.low, affine.high) <= 1.01 * best


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_of_fp8_is_the_brute_force_optimum(shape: str) -> None:
    """The rounding is ml_dtypes' own."""
    values = SHAPES[shape]()[:20_000].astype(np.float32)
    amax = float(np.abs(values).max())

    def error(clip: float) -> float:
        scale = np.float32(clip / 448)
        clipped = np.clip(values / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        return float(np.mean((clipped.astype(np.float32) * scale - values) ** 2))

    found = find_range(of(values), "mse", "e4m3")
    assert found.low == -found.high
    best = min(error(amax * i / 400) for i in range(20, 401))
    # As for INT8, but the error jumps where a frequent value crosses a step: 3% rather than 1%.
    assert error(found.amax) <= 1.03 * best
    assert error(found.amax) <= error(amax)


def test_fp8_has_the_other_calibrators_ranges_but_entropys() -> None:
    histogram = of(RNG.laplace(size=5000).astype(np.float32))
    for method in ("minmax", "percentile"):
        symmetric = find_range(histogram, method, "symmetric")
        assert find_range(histogram, method, "e4m3") == symmetric
    with pytest.raises(WrongRequest, match="for e4m3: it assumes evenly spaced"):
        find_range(histogram, "entropy", "e4m3")


@pytest.mark.parametrize("method", CALIBRATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_order_do_not_matter(method: str, kind: Kind) -> None:
    values = RNG.laplace(size=5000).astype(np.float32)
    pieces = Histogram()
    for part in np.array_split(values[::-1], 37):
        pieces.observe(part)
    assert find_range(pieces, method, kind) == find_range(of(values), method, kind)


def test_refusals() -> None:
    histogram = of(np.ones(3, np.float32))
    with pytest.raises(WrongRequest, match="did you mean: entropy"):
        find_range(histogram, "entrpy", "affine")
    for percent in (0, 100.1, math.nan):
        with pytest.raises(WrongRequest, match="percentile"):
            find_range(histogram, "percentile", "affine", percentile=percent)
    for method in CALIBRATORS:
        with pytest.raises(NoData):
            find_range(Histogram(), method, "symmetric")


@pytest.mark.parametrize("kind", KINDS)
def test_mse_lets_images_count_alike(kind: Kind) -> None:
    """One image in thirty, 32 times as large, is clipped for a finer step of the others."""
    images = np.random.default_rng(3).normal(size=(30, 4000)).astype(np.float32)
    images[0] *= 32  # whole octaves: weights by octave are then exact
    found = find_range(of(images), "mse", kind).amax
    plain = find_range(of(images.reshape(-1)), "mse", kind).amax  # as if all were one image

    def sqnr_db(amax: float) -> np.ndarray:
        """Of each image, by hand; no more than 40 dB."""
        scale = amax / (127 if kind == "symmetric" else 127.5)
        rounded = np.clip(np.rint(images / scale), -128, 127) * scale
        relative = ((rounded - images) ** 2).sum(axis=1) / (images**2).sum(axis=1)
        return -10 * np.log10(1e-4 + relative)

    best = max(sqnr_db(amax).mean() for amax in np.geomspace(2, plain, 60))
    assert sqnr_db(found).mean() > best - 0.05
    assert sqnr_db(found)[1:].min() > sqnr_db(plain)[1:].max() + 20
