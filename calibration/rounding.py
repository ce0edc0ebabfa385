"""Round weights so that the layer's output changes least, not each weight by itself.

Rounding each weight to the nearest number is not the best for a layer's output: errors of weights
that read correlated inputs can cancel (Nagel et al. 2020, "Up or Down? Adaptive Rounding",
arXiv 2004.10568). Each weight has two neighboring numbers, integers or E4M3's. This module
chooses one of them so as to minimize

    (q - w)^T G (q - w),  G the second moments of the layer's input (calibration.gram)

for each output channel. That is the paper's local objective before its relaxation, equation 13,
a quadratic binary problem. AdaRound relaxes it to sigmoids, which gradient descent hardens. Here
coordinate descent solves it directly, one weight at a time, because G fits in memory and the
exact change of the objective by one flip is known. The result is never worse than nearest
rounding, and there is no learning rate or annealing to tune. The descent ends when no single flip
helps, or after three sweeps. Few flips help by then: twenty sweeps took three times as long and
brought the shipped networks' logits no nearer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.formats import Format

Matrix = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of G's mean diagonal that is added to the diagonal. The images are only a sample: along
near-singular directions G shows no error, but other images have one. GPTQ does the same for the
same reason (Frantar et al. 2022, arXiv 2210.17323, section 3.3)."""
SWEEPS = 3
_BLOCK = 128  # columns


@dataclass(frozen=True)
class Rounded:
    """Quantized weights, and their error compared with nearest rounding.

    Attributes:
        integers: numbers of the format, integers or E4M3's; float64, in the weights' shape.
        nearest_error: the objective of nearest rounding, summed over channels.
        error: the objective of `integers`, summed over channels.
    """

    integers: Matrix
    nearest_error: float
    error: float


def round_rows(scaled: Matrix, moments: Matrix, number: Format, *, sweeps: int = SWEEPS) -> Rounded:
    """Choose one of the two neighbors for each weight of one group of channels.

    Args:
        scaled: weight / scale, (channels, n).
        moments: second moments of the channels' input, (n, n), symmetric.
        number: the format; a weight beyond its largest number is clipped. The largest weight of
            a channel is always rounded to nearest.
        sweeps: maximum number of passes over all weights.
    """
    gram = moments + np.eye(len(moments)) * (DAMPING * moments.trace() / len(moments))
    chosen, other = number.round(scaled), number.other(scaled)
    # A channel's largest weight sets its scale. Since the scale is float32, that weight is slightly
    # off the grid. If it were rounded down, the scale would shrink and all weights leave the grid.
    magnitudes = np.abs(scaled)
    sets_scale = magnitudes == magnitudes.max(axis=1, keepdims=True)
    other[sets_scale] = chosen[sets_scale]
    slope = (chosen - scaled) @ gram  # half the gradient
    nearest_error = _error(chosen - scaled, moments)
    for _ in range(sweeps):
        if not _sweep(chosen, other, slope, gram):
            break
    return Rounded(chosen + 0.0, nearest_error, _error(chosen - scaled, moments))  # no -0.0


def _sweep(chosen: Matrix, other: Matrix, slope: Matrix, gram: Matrix) -> int:
    """Visit each weight once, flip it if that lowers the objective, and return the flips.

    A flip changes the slope at all weights. Slopes outside the current block of columns are
    updated when the block is done, with all its flips in one product. The descent is the same,
    but runs at the speed of matrix products.
    """
    flips = 0
    for start in range(0, len(gram), _BLOCK):
        block = slice(start, start + _BLOCK)
        steps = _visit(other[:, block] - chosen[:, block], slope[:, block], gram[block, block])
        (rows,) = np.nonzero(steps.any(axis=1))
        if rows.size:
            chosen[:, block] += steps
            other[:, block] -= steps
            slope[rows] += steps[rows] @ gram[block]
            flips += np.count_nonzero(steps)
    return flips


def _visit(possible: Matrix, slope: Matrix, gram: Matrix) -> Matrix:
    """Return the steps to take in one block, column by column; 0 where a step doesn't help."""
    slopes = slope.T.copy()  # one row per column of weights, so that each is contiguous
    taken: Matrix = np.zeros(slopes.shape)
    for column, curvature in enumerate(gram.diagonal()):
        step = possible[:, column]
        change = step * (2 * slopes[column] + step * curvature)
        helps = change < -1e-12 * curvature  # more than a rounding error
        if helps.any():
            taken[column] = np.where(helps, step, 0)
            slopes[column + 1 :] += gram[column, column + 1 :, None] * taken[column]
    return np.ascontiguousarray(taken.T)


def _error(difference: Matrix, moments: Matrix) -> float:
    return float(((difference @ moments) * difference).sum())
