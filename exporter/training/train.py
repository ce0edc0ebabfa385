"""Train with SGD with momentum on a warm-up and cosine schedule, resumable after a kill.

This is plain Keras 3, so it runs on any backend. On a CPU, ``KERAS_BACKEND=torch`` trains grouped
convolutions several times faster, as TensorFlow has no kernel for them there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exporter.data import datasets
from exporter.errors import ExporterError, WrongUse
from exporter.models import checkpoint, zoo
from exporter.models.preprocessing import preprocess
from exporter.network.keras_env import load_keras
from exporter.output import check_parent
from exporter.progress import Progress, silent
from exporter.training import state as train_state
from exporter.training.state import History

if TYPE_CHECKING:
    import keras

EVALUATION_BATCH = 100


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the result of a training run.

    Attributes:
        model: a zoo name.
        data: as in :func:`exporter.data.datasets.load`.
        output: the ``.keras`` file to write, with ``.history.json`` and ``.png`` next to it.
        epochs: passes over the training images.
        image_size: height and width, in pixels.
        start_from: a ``.keras`` file of the same network to take the weights from.
        batch_size: images per step.
        learning_rate: peak learning rate, after ``warmup_epochs`` of linear warm-up.
        momentum: Nesterov momentum.
        weight_decay: decoupled weight decay, on kernels only.
        label_smoothing: fraction of each label to spread over all classes.
        flip: flip images horizontally at random.
        shift: shift images at random by up to this fraction of their side in each direction.
        held_out: number of training images held out to watch progress on.
        seed: seed for the weights, the order and the augmentation.
        limit: use only this many training images, for a quick try.
    """

    model: str
    data: str
    output: Path
    epochs: int
    image_size: int = zoo.IMAGE_SIZE
    start_from: Path | None = None
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5
    label_smoothing: float = 0.0
    flip: bool = True
    shift: float = 0.04
    held_out: int = 1000
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse a configuration that can't work, before anything slow starts."""
        zoo.lookup(self.model)
        if self.output.suffix != ".keras":
            raise WrongUse(f"the output must end in .keras, not {self.output.name!r}")
        check_parent(self.output)
        for name in ("epochs", "image_size", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise WrongUse(
                    f"{name.replace('_', '-')} must be positive, not {getattr(self, name)}"
                )
        if self.limit is not None and self.limit <= 0:
            raise WrongUse(f"limit must be positive, not {self.limit}")
        for name in ("weight_decay", "warmup_epochs", "held_out", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise WrongUse(
                    f"{name.replace('_', '-')} must not be negative, not {getattr(self, name)}"
                )
        for name in ("label_smoothing", "momentum", "shift"):
            if not 0 <= getattr(self, name) < 1:
                raise WrongUse(
                    f"{name.replace('_', '-')} must be in [0, 1), not {getattr(self, name)}"
                )
        if self.start_from is not None and not self.start_from.is_file():
            raise WrongUse(f"no such file to start from: {self.start_from}")

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, to store with the history."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in dataclasses.asdict(self).items()
        }


def train(config: TrainConfig, progress: Progress = silent) -> dict[str, Any]:
    """Train a zoo model, and write the model, its history and a plot of the history.

    If a run was killed, start it again with the same configuration: it continues after the last
    finished epoch. Order and augmentation depend only on the seed and the epoch.

    Returns:
        The history file's content: ``epochs`` (one row each), ``test`` (``correct``,
        ``images`` and ``top1`` of the written file on all test images), ``config``,
        ``versions`` and, if it started from another file, that file's history.

    Raises:
        WrongUse: bad configuration, or an unfinished run with another configuration.
        ExporterError: the loss is no longer finite, or a file to start from is damaged.
    """
    keras = load_keras(os.environ.get("KERAS_BACKEND", "tensorflow"))
    data = datasets.load(config.data, "train", progress)
    test = datasets.load(config.data, "test", progress)
    if test.channels != data.channels:
        raise WrongUse(
            f"{config.data}: training images have {data.channels} channel(s), "
            f"but test images have {test.channels}"
        )
    size = (config.image_size, config.image_size)
    kept, held_out = _split(len(data), config)
    classes = max(len(data.classes), int(data.labels.max()) + 1)
    keras.utils.set_random_seed(config.seed)
    model = zoo.build(
        config.model, image_size=config.image_size, channels=data.channels, classes=classes
    )
    past = {}
    if config.start_from is not None:
        _start_from(keras, model, config.start_from)
        past = {"started_from": _history_of(config.start_from)}
    steps = math.ceil(len(kept) / config.batch_size)
    _compile(keras, model, config, steps)

    config.output.parent.mkdir(parents=True, exist_ok=True)
    state = Path(f"{config.output}.unfinished")
    history = train_state.resume(keras, model, state, config.as_json())
    for epoch in range(len(history), config.epochs):
        started = time.monotonic()
        feed = _feed(keras, data, kept, size, epoch, config, classes)
        row = _run_epoch(keras, model, feed, f"epoch {epoch + 1}/{config.epochs}", progress)
        if len(held_out):
            watched = _correct(model, data, size, held_out, progress, "held-out images")
            row["held_out_top1"] = watched / len(held_out)
        row["seconds"] = round(time.monotonic() - started, 1)
        history.append({"epoch": epoch + 1, **row})
        train_state.save(model, state, config.as_json(), history)
    return _finish(keras, model, test, config, history, past, state, progress)


def _run_epoch(
    keras: Any, model: keras.Model, feed: Any, stage: str, progress: Progress
) -> dict[str, float]:
    bar = _bar(keras, progress, stage, len(feed))
    try:
        # shuffle=False: Keras would shuffle the steps with a generator that a kill resets.
        logs = model.fit(feed, verbose=0, shuffle=False, callbacks=[bar]).history
    except Exception:
        if feed.failure is None:
            raise
        # TensorFlow wraps an error in the feed in its own error, with a traceback.
        raise feed.failure from None
    loss = float(logs["loss"][0])
    if not math.isfinite(loss):
        raise ExporterError(
            f"the loss became {loss} in {stage}",
            hint="a lower --learning-rate usually helps; to start over, delete the folder "
            "that ends in .unfinished",
        )
    return {
        "loss": loss,
        "train_top1": float(logs["accuracy"][0]),
        "learning_rate": float(model.optimizer.learning_rate),
    }


def _split(count: int, config: TrainConfig) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split images into those to train on and those to watch progress on, by the seed alone."""
    order = np.random.default_rng(config.seed).permutation(count)[: config.limit]
    aside = min(config.held_out, len(order) // 5)
    return order[aside:], order[:aside]


def _start_from(keras: Any, model: keras.Model, path: Path) -> None:
    source = train_state.open_keras(keras, path, compile=False)
    try:
        model.set_weights(source.get_weights())
    except ValueError as error:
        raise WrongUse(f"{path} contains another network than {model.name}: {error}") from error


def _compile(keras: Any, model: keras.Model, config: TrainConfig, steps: int) -> None:
    total = steps * config.epochs
    warmup = min(round(steps * config.warmup_epochs), total // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate * 0.1,
        decay_steps=total - warmup,
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.SGD(
        schedule, momentum=config.momentum, nesterov=True, weight_decay=config.weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=config.label_smoothing
    )
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)


def _feed(
    keras: Any,
    data: datasets.Dataset,
    indices: npt.NDArray[np.int64],
    size: tuple[int, int],
    epoch: int,
    config: TrainConfig,
    classes: int,
) -> Any:
    """Make the batches of one epoch: shuffled, augmented, resized, preprocessed."""
    order = np.random.default_rng((config.seed, epoch)).permutation(indices)
    one_hot = np.eye(classes, dtype=np.float32)

    class Feed(keras.utils.PyDataset):  # type: ignore[misc]
        failure: ExporterError | None = None

        def __len__(self) -> int:
            return math.ceil(len(order) / config.batch_size)

        def __getitem__(self, step: int) -> tuple[Any, Any]:
            try:
                return self._batch(step)
            except ExporterError as error:
                self.failure = error
                raise

        def _batch(self, step: int) -> tuple[Any, Any]:
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            rng = np.random.default_rng((config.seed, epoch, step))
            pixels = augment(
                data.pixels(chosen, size),
                rng,
                flip=config.flip,
                shift=round(config.shift * size[0]),
            )
            return preprocess(zoo.PREPROCESSING, pixels), one_hot[data.labels[chosen]]

    return Feed()


def augment(
    pixels: datasets.Pixels, rng: np.random.Generator, *, flip: bool, shift: int
) -> datasets.Pixels:
    """Flip and shift each image of a batch at random. Pixels shifted in are zero.

    Args:
        pixels: (batch, height, width, channels).
        rng: the only source of randomness.
        flip: flip about half of the images horizontally.
        shift: the largest shift, in pixels, in each direction.
    """
    count, height, width, _ = pixels.shape
    if flip:
        mirrored = np.reshape(rng.random(count) < 0.5, (count, 1, 1, 1))
        pixels = np.where(mirrored, pixels[:, :, ::-1], pixels)
    if shift:
        padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
        moves = rng.integers(0, 2 * shift + 1, (count, 2))
        pixels = np.stack(
            [
                image[y : y + height, x : x + width]
                for image, (y, x) in zip(padded, moves, strict=True)
            ]
        )
    return pixels


def _bar(keras: Any, progress: Progress, stage: str, steps: int) -> Any:
    class Bar(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, step: int, logs: dict[str, float] | None = None) -> None:
            logs = logs or {}
            note = f"loss {logs.get('loss', 0):.3f} top-1 {logs.get('accuracy', 0):.4f}"
            progress(stage, step + 1, steps, note)

    return Bar()


def _correct(
    model: keras.Model,
    data: datasets.Dataset,
    size: tuple[int, int],
    indices: npt.NDArray[np.int64],
    progress: Progress,
    stage: str,
) -> int:
    """Count the images for which the label has the largest logit."""
    correct = 0
    for start in range(0, len(indices), EVALUATION_BATCH):
        chosen = indices[start : start + EVALUATION_BATCH]
        logits = model.predict_on_batch(preprocess(zoo.PREPROCESSING, data.pixels(chosen, size)))
        correct += int((np.argmax(logits, axis=-1) == data.labels[chosen]).sum())
        progress(stage, start + len(chosen), len(indices))
    return correct


def _finish(
    keras: Any,
    model: keras.Model,
    test: datasets.Dataset,
    config: TrainConfig,
    history: History,
    past: dict[str, Any],
    state: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write the model, and test the written file rather than the model in memory."""
    card = {"preprocessing": zoo.PREPROCESSING, "classes": list(test.classes)}
    checkpoint.save_half(model, config.output, card)
    written = keras.models.load_model(config.output, compile=False, safe_mode=True)
    size = (config.image_size, config.image_size)
    correct = _correct(written, test, size, np.arange(len(test)), progress, "test images")
    result: dict[str, Any] = {
        "test": {"correct": correct, "images": len(test), "top1": correct / len(test)},
        "epochs": history,
        "config": config.as_json(),
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        },
        **past,
    }
    _history_file(config.output).write_text(json.dumps(result, indent=1) + "\n")
    _plot(history, config.output.with_suffix(".png"))
    train_state.retire(state)
    return result


def _history_file(output: Path) -> Path:
    return output.with_suffix(".history.json")


def _history_of(weights: Path) -> dict[str, Any] | None:
    """Return the history next to a weights file, so that a result contains its whole past."""
    file = _history_file(weights)
    if not file.is_file():
        return None
    try:
        past: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ExporterError(
            f"{file} is not a readable history: {error}",
            hint="delete it to continue without the history of these weights",
        ) from error
    return past


def _plot(history: History, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    loss.plot(epochs, [row["loss"] for row in history], marker="o")
    loss.set(xlabel="epoch", ylabel="training loss")
    for key, label in (("train_top1", "training"), ("held_out_top1", "held out")):
        if key in history[0]:
            top1.plot(epochs, [row[key] for row in history], marker="o", label=label)
    top1.set(xlabel="epoch", ylabel="top-1")
    top1.legend()
    figure.savefig(path, dpi=100)
