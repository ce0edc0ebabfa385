"""Data that the user has in Python: arrays, data sets of TensorFlow or Keras, any batches."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.data.datasets import Labels, Split, resize
from exporter.errors import WrongUse

Array = npt.NDArray[Any]
_MOST_COMPARED = 64
_SHARE_COMPARED = 4
_PAIRS = (2, 3)  # (inputs, labels) and (inputs, labels, weights), as in Keras' fit


@dataclass(frozen=True)
class Function:
    """The user's own preprocessing, as a passport records it.

    Attributes:
        name: its qualified name.
        sha256: hash of its source, or of its bytecode if there is no source.
    """

    name: str
    sha256: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Function:
        """Describe a function."""
        try:
            content = inspect.getsource(function).encode()
        except (OSError, TypeError):
            code = getattr(function, "__code__", None)
            content = repr(function).encode() if code is None else code.co_code
        name = getattr(function, "__qualname__", type(function).__name__)
        return cls(name, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Samples:
    """Inputs in memory; a :class:`exporter.data.datasets.Dataset`.

    Attributes:
        inputs: (n, ...), as the network takes them, or uint8 images to preprocess.
        labels: (n,) class indices; zeros if there are none.
        labeled: whether the user gave labels.
        split: which part of the data this is.
        name: for passports and messages.
        classes: names by label; may be empty.
    """

    inputs: Array
    labels: Labels
    labeled: bool
    split: str
    name: str = "data given in Python"
    classes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Size of the last axis."""
        return int(self.inputs.shape[-1])

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.inputs)

    def pixels(
        self, indices: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, ...]
    ) -> Array:
        """Return the chosen samples; images in uint8 are resized if ``size`` is another."""
        chosen: Array = self.inputs[np.asarray(indices)]
        if chosen.dtype != np.uint8 or chosen.ndim != 4 or chosen.shape[1:3] == size:
            return chosen
        height, width = size
        return np.stack([resize(image, (height, width)) for image in chosen])


@dataclass(frozen=True)
class Data:
    """What the user gave as ``data``.

    Attributes:
        inputs: (n, ...).
        labels: (n,), or None.
        function: the user's preprocessing that was applied to the inputs, if any.
        test_only: whether all of it is for evaluation.
    """

    inputs: Array
    labels: Labels | None
    function: Function | None = None
    test_only: bool = False

    def part(self, split: Split) -> Samples:
        """Return the samples to measure on, or those to compare and evaluate on.

        For an export, a quarter of them (64 at most) is compared with Keras, and never measured on.
        """
        cut = len(self.inputs) if self.test_only else self._compared
        chosen = slice(0, cut) if split == "test" else slice(cut, None)
        inputs = self.inputs[chosen]
        labels = np.zeros(len(inputs), np.int64) if self.labels is None else self.labels[chosen]
        return Samples(inputs, labels, self.labels is not None, split)

    @property
    def _compared(self) -> int:
        return min(_MOST_COMPARED, max(1, len(self.inputs) // _SHARE_COMPARED))


def gather(
    given: Any,
    limit: int | None = None,
    function: Callable[[Array], Any] | None = None,
    *,
    test_only: bool = False,
) -> Data:
    """Read data of any kind into memory.

    Args:
        given: an array; (inputs, labels); a ``tf.data.Dataset``, a ``keras.utils.PyDataset``, a
            generator, or anything else that yields batches: inputs, (inputs, labels) or (inputs,
            labels, weights). A label is a class, one-hot or not.
        limit: stop after this many samples; None reads all.
        function: applied to each batch of inputs.
        test_only: for an evaluation, where nothing is set apart.

    Raises:
        WrongUse: there is nothing in it, batches differ in shape or type, or a value is NaN or
            infinite.
    """
    inputs: list[Array] = []
    labels: list[Labels | None] = []
    count = 0
    for batch, label in map(_split, _batches(given)):
        x = np.asarray(batch if function is None else function(batch))
        _check(x, inputs, count)
        inputs.append(x)
        labels.append(None if label is None else _classes(label, len(x)))
        count += len(x)
        if limit is not None and count >= limit:
            break
    if not count:
        raise WrongUse("the data yields nothing", hint="a generator can be read only once")
    if len({label is None for label in labels}) > 1:
        raise WrongUse("some batches have labels, and others have none")
    known = [label for label in labels if label is not None]
    return Data(
        np.concatenate(inputs)[:limit],
        np.concatenate(known)[:limit] if known else None,
        None if function is None else Function.of(function),
        test_only,
    )


def _batches(given: Any) -> Iterator[Any]:
    if isinstance(given, tuple) and len(given) in _PAIRS and all(map(_is_array, given)):
        return iter([given])
    if _is_array(given):
        return iter([(given,)])
    if hasattr(given, "as_numpy_iterator"):  # tf.data.Dataset
        batches: Iterator[Any] = given.as_numpy_iterator()
        return batches
    if hasattr(given, "__getitem__") and hasattr(given, "num_batches"):  # keras.utils.PyDataset
        several = range(len(given)) if given.num_batches is not None else itertools.count()
        return (given[index] for index in several)
    if isinstance(given, Iterable):
        return iter(given)
    raise WrongUse(
        f"can't read data from {type(given).__name__}",
        hint="give arrays, a tf.data.Dataset, a keras.utils.PyDataset, or batches",
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape") and len(value.shape) > 0


def _split(batch: Any) -> tuple[Array, Any]:
    """Return inputs and labels of a batch."""
    if isinstance(batch, (tuple, list)):
        inputs, *rest = batch
        return _one(inputs), rest[0] if rest else None
    return _one(batch), None


def _one(inputs: Any) -> Array:
    if isinstance(inputs, dict) and len(inputs) == 1:
        (inputs,) = inputs.values()
    if isinstance(inputs, (dict, tuple, list)):
        raise WrongUse(
            f"the data has {len(inputs)} inputs; only networks with one input take data so far",
            hint="leave the data out: the graph is then compared on random inputs",
        )
    return np.asarray(inputs)


def _check(x: Array, before: list[Array], count: int) -> None:
    if x.dtype == object or x.ndim < 2:
        raise WrongUse(f"a batch has to be an array (samples, ...), not {x.dtype} {x.shape}")
    if before and (x.shape[1:] != before[0].shape[1:] or x.dtype != before[0].dtype):
        first = before[0]
        raise WrongUse(
            f"batches differ: the first has samples of {first.dtype} {first.shape[1:]}, and the "
            f"one after {count} samples has {x.dtype} {x.shape[1:]}"
        )
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        worst = int(np.argwhere(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0, 0])
        raise WrongUse(f"sample {count + worst} of the data has a value that is NaN or infinite")


def _classes(given: Any, count: int) -> Labels:
    """Return labels as class indices: from (n,), (n, 1) or one-hot (n, classes)."""
    labels = np.asarray(given)
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
    whole = np.issubdtype(labels.dtype, np.number) and (labels == np.floor(labels)).all()
    if labels.shape != (count,) or not whole:
        raise WrongUse(
            f"labels have to be one class for each of {count} samples, not {labels.dtype} "
            f"{np.shape(given)}"
        )
    return labels.astype(np.int64)
