"""Two networks that no setting of the exporter was chosen on, trained briefly for comparisons.

``python -m benchmarks.studies.untuned mobilenetv2 -o build/untuned/mobilenetv2.keras`` trains a
``keras.applications`` network on Fashion-MNIST at 32x32 and writes a ``.keras`` file like any
user's, which carries its preprocessing, and a JSON history with options and seeds beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from exporter.data import datasets
from exporter.models import checkpoint
from exporter.models.preprocessing import preprocess

SIZE = (32, 32)
CLASSES = 10
PREPROCESSING = "unit"


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    Attributes:
        application: its name in ``keras.applications``.
        options: of its constructor.
        epochs: passes over the 60,000 training images.
        batch_size: images a step.
        learning_rate: Adam's at the start; it falls to 0 along a cosine.
        momentum: of batch norm's statistics. keras.applications' 0.999 needs thousands of steps
            before inference sees what training saw; so few epochs need less.
        seed: of weights and order.
    """

    application: str
    options: dict[str, Any]
    epochs: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    momentum: float = 0.9
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "mobilenetv2": Recipe("MobileNetV2", {"alpha": 1.0}, epochs=2),
    "densenet121": Recipe("DenseNet121", {}, epochs=1),
}


def build(recipe: Recipe) -> Any:
    """Build the network with fresh weights: (batch, 32, 32, 1) to logits (batch, 10)."""
    from exporter.network.keras_env import load_keras

    keras = load_keras()
    keras.utils.set_random_seed(recipe.seed)
    model = getattr(keras.applications, recipe.application)(
        input_shape=(*SIZE, 1),
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        **recipe.options,
    )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = recipe.momentum
    return model


def train(name: str, path: Path, steps: int | None = None) -> dict[str, Any]:
    """Train a network and write it with its history.

    Args:
        name: a key of :data:`RECIPES`.
        path: the ``.keras`` file; ``.history.json`` goes beside it.
        steps: stop after so many of each epoch; None for all.

    Returns:
        The history: recipe, losses, and what the written file scores on all test images.
    """
    recipe = RECIPES[name]
    model = build(recipe)
    import keras

    data = datasets.load("fashion-mnist", "train")
    count = len(data) if steps is None else steps * recipe.batch_size
    images = preprocess(PREPROCESSING, data.pixels(np.arange(count), SIZE))
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, recipe.epochs * -(-count // recipe.batch_size)
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    fitted = model.fit(
        images,
        data.labels[:count],
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        verbose=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"preprocessing": PREPROCESSING, "classes": list(data.classes)}
    checkpoint.save_half(model, path, card)
    history = {
        "network": name,
        "recipe": asdict(recipe),
        "image_size": SIZE[0],
        "preprocessing": PREPROCESSING,
        "training_images": count,
        "keras": keras.__version__,
        "epochs": {key: [float(x) for x in values] for key, values in fitted.history.items()},
        "test": _test(path, None if steps is None else count),
    }
    path.with_suffix(".history.json").write_text(json.dumps(history, indent=1) + "\n")
    return history


def _test(path: Path, limit: int | None) -> dict[str, Any]:
    """Score the file as it was written: its kernels are in half precision."""
    import keras

    model = keras.models.load_model(path, compile=False)
    data = datasets.load("fashion-mnist", "test")
    count = len(data) if limit is None else min(limit, len(data))
    images = preprocess(PREPROCESSING, data.pixels(np.arange(count), SIZE))
    correct = int((model.predict(images, 256, verbose=0).argmax(-1) == data.labels[:count]).sum())
    return {"images": count, "correct": correct, "top1": correct / count}


@click.command()
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=click.IntRange(min=1), help="Of each epoch; default: all.")
def main(name: str, output: Path, steps: int | None) -> None:
    """Train NAME on Fashion-MNIST at 32x32."""
    test = train(name, output, steps)["test"]
    click.echo(f"{output}: top-1 {test['top1']:.4f} ({test['correct']} of {test['images']})")


if __name__ == "__main__":
    main()
