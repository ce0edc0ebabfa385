r"""Choose the range with the least KL divergence of its quantized histogram from the real one.

Szymon Migacz, "8-bit inference with TensorRT", GTC 2017, S7310. For each candidate of i bins:
P is the histogram's first i bins, everything beyond added to the last one; Q is the same i bins
*without* that, summed into ``levels`` groups and spread evenly over each group's non-empty bins;
the candidate with the least KL(P || Q) wins, the widest among equals.

With N values in all, M of them in the first i bins, o = N - M, p the last bin's count, and group
sums S over c non-empty bins each, that divergence is

    KL = 1/N [ sum_{j<i-1} n_j ln n_j + (p + o) ln(p + o)
               - sum_k S_k ln(S_k / c_k) - o ln(S_last / c_last) ] - ln N + ln M

Cumulative sums give it at the cost of one term per group instead of one per bin.

The first bin takes its neighbor's count, as NVIDIA's own calibrator does (TensorRT Model
Optimizer, ``calib/histogram.py``). Zero is exact at every scale, so the half of a ReLU's output
that is zero says nothing about the range. Counted as probability, it would drown the rest.

Signed and unsigned INT8 are both clipped with ``LEVELS`` groups. onnxruntime does the same
(``quantization/calibrate.py``, ``get_entropy_threshold``), and TensorRT's published range
selection describes no other way (MLPerf Inference, NVIDIA's ``calibration.md``: 127 groups).
MXNet and NVIDIA's PyTorch toolkit double the groups for unsigned data. That clips *harder*,
though a finer grid has less to gain from clipping: KL weighs the mass it moves, not how far it
moves it, so finer groups lower the cost of rounding but not that of clipping. A constant
background, which a convolution turns into one value per channel, then decides alone: on
ResNet-18's first ReLU, 255 groups cut at a quarter of the maximum, and 128 at half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.histogram import Counts, Floats

LEVELS = 128  # on one side of zero
MOST_BINS = 4096  # so more than 2048 are in use, and NVIDIA uses 2048
STRIDE = 8  # bins from one candidate to the next: 0.2 to 0.4% of the greatest magnitude
SAME = 1e-12  # nats; divergences closer than this differ by rounding


def entropy_amax(counts: Counts, width: float, amax: float, levels: int) -> float:
    """Return the magnitude to clip at.

    Args:
        counts: counts of |x| by bin, starting at zero. The last one is not zero.
        width: width of a bin.
        amax: the greatest |x|. The result does not exceed it.
        levels: groups to quantize to.
    """
    while counts.size > MOST_BINS:
        counts = np.pad(counts, (0, counts.size % 2)).reshape(-1, 2).sum(axis=1)
        width *= 2
    if counts.size <= levels:
        return amax
    counts = counts.copy()
    counts[0] = counts[1]
    ends = np.arange(counts.size, levels - 1, -STRIDE)
    divergence = divergences(counts, ends, levels)
    best = ends[np.argmax(divergence <= divergence.min() + SAME)]  # the first is the widest
    return min(float(best) * width, amax)


def divergences(counts: Counts, ends: npt.NDArray[np.int64], levels: int) -> Floats:
    """Return each candidate's KL divergence in nats, infinite where Q lacks a bin of P.

    Args:
        counts: shape (bins,).
        ends: candidates, each a number of bins from ``levels`` to ``bins``.
        levels: groups to quantize to.
    """
    total = counts.sum()
    cumulative = _from_zero(counts)
    filled = _from_zero((counts > 0).astype(np.int64))
    own = np.concatenate([[0.0], np.cumsum(_n_log_n(counts))])
    borders = -(-np.arange(levels + 1) * ends[:, None] // levels)
    sums = np.diff(cumulative[borders], axis=1)
    groups = np.diff(filled[borders], axis=1)
    inside, last = cumulative[ends], counts[ends - 1]
    outside = total - inside
    spread = _n_log_n(sums) - sums * np.log(np.maximum(groups, 1))
    level = np.log(np.maximum(sums[:, -1], 1) / np.maximum(groups[:, -1], 1))
    score = own[ends - 1] + _n_log_n(last + outside) - spread.sum(axis=1) - outside * level
    divergence = score / total - np.log(total) + np.log(np.maximum(inside, 1))
    return np.where((inside == 0) | ((last == 0) & (outside > 0)), np.inf, divergence)


def _from_zero(counts: Counts) -> Counts:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _n_log_n(n: Counts) -> Floats:
    return np.asarray(n * np.log(np.maximum(n, 1)), np.float64)
