"""Round weights for the layer's output, not each for itself.

Rounding to the nearest number is not what changes a layer's output least: errors of weights
that read correlated inputs can cancel (Nagel et al. 2020, "Up or Down? Adaptive Rounding",
arXiv 2004.10568). Of each weight's two neighboring numbers, integers or E4M3's, this chooses one
so as to minimize

    (q - w)^T G (q - w),  G the second moments of the layer's input (calibration.gram)

for each output channel. That is the paper's local objective before its relaxation, equation 13,
a quadratic binary problem. AdaRound relaxes it to sigmoids, which gradient descent hardens;
here it is descended as it is, one weight at a time, as G fits in memory and the exact change of
the objective by one flip is known. It can't get worse than nearest rounding, has no learning
rate or annealing to tune, and ends where no single flip helps, or after three sweeps: few help by
then, and twenty sweeps brought the shipped networks' logits no nearer in three times the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.formats import Format

Matrix = npt.NDArray[np.float64]

DAMPING = 0.01
"""Share of G's mean diagonal that is added to it: the images are a sample, and near-singular
directions of G, along which it sees no error, have error on others (Frantar et al. 2022, "GPTQ",
arXiv 2210.17323, section 3.3, for the same reason)."""
SWEEPS = 3
_BLOCK = 128  # columns


@dataclass(frozen=True)
class Rounded:
    """Quantized weights, and what choosing them gained.

    Attributes:
        integers: numbers of the format, integers or E4M3's; float64, of the weights' shape.
        nearest_error: the objective of nearest rounding, summed over channels.
        error: that of `integers`.
    """

    integers: Matrix
    nearest_error: float
    error: float


def round_rows(scaled: Matrix, moments: Matrix, number: Format, *, sweeps: int = SWEEPS) -> Rounded:
    """Choose which of its two neighbors each weight of one group of channels becomes.

    Args:
        scaled: weight / scale, (channels, n).
        moments: of what the channels read, (n, n), symmetric.
        number: the format; a weight beyond its largest number is clipped. The largest weight of
            a channel is rounded to nearest, whatever that costs.
        sweeps: over all weights, at most.
    """
    gram = moments + np.eye(len(moments)) * (DAMPING * moments.trace() / len(moments))
    chosen, other = number.round(scaled), number.other(scaled)
    # A channel's scale is that of its largest weight. A float32 scale leaves that weight just
    # beside the grid; were it to step down, the scale would follow, and no weight be on the grid.
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
    """Visit each weight once, flip it where that lowers the objective; returns the flips.

    A flip changes the slope at all weights. Those outside the block of columns that is being
    visited hear of it when the block is done, all its flips in one product: the same descent,
    at the speed of matrix products.
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
    """The steps to take in one block, column by column, of those possible; 0 where none helps."""
    slopes = slope.T.copy()  # a row a column of weights, to be read and written in one piece
    taken: Matrix = np.zeros(slopes.shape)
    for column, curvature in enumerate(gram.diagonal()):
        step = possible[:, column]
        change = step * (2 * slopes[column] + step * curvature)
        helps = change < -1e-12 * curvature  # not for rounding's sake
        if helps.any():
            taken[column] = np.where(helps, step, 0)
            slopes[column + 1 :] += gram[column, column + 1 :, None] * taken[column]
    return np.ascontiguousarray(taken.T)


def _error(difference: Matrix, moments: Matrix) -> float:
    return float(((difference @ moments) * difference).sum())
