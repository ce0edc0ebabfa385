"""Two networks that no setting of the exporter was tuned on, trained briefly for comparisons.

``python -m benchmarks.studies.untuned mobilenetv2 -o build/untuned/mobilenetv2.keras`` trains a
``keras.applications`` network on Fashion-MNIST at 32x32. It writes a ``.keras`` file like any
user's, which carries its preprocessing, and beside it a JSON history with options and seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import result_file
from benchmarks.accuracy.measure import Images, score
from benchmarks.accuracy.original import original_logits
from exporter.data import datasets
from exporter.models import checkpoint
from exporter.models.preprocessing import preprocess
from exporter.network import sources
from exporter.progress import silent

DATA = "fashion-mnist"
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
        momentum: of batch norm's statistics. The 0.999 of keras.applications needs thousands of
            steps before they fit the training images, and there are fewer steps here.
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


def train(name: str, path: Path) -> dict[str, Any]:
    """Train a network and write it with its history.

    Args:
        name: a key of :data:`RECIPES`.
        path: the ``.keras`` file; ``.history.json`` goes beside it.

    Returns:
        The history: recipe, losses, and how the written file scores on all test images. Its kernels
        are in half precision.
    """
    recipe = RECIPES[name]
    model = build(recipe)
    import keras

    data = datasets.load(DATA, "train")
    images = preprocess(PREPROCESSING, data.pixels(np.arange(len(data)), SIZE))
    steps = recipe.epochs * -(-len(data) // recipe.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    asked = {"batch_size": recipe.batch_size, "epochs": recipe.epochs}
    fitted = model.fit(images, data.labels, **asked, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"preprocessing": PREPROCESSING, "classes": list(data.classes)}
    checkpoint.save_half(model, path, card)
    tested = Images.load(sources.load(str(path)), DATA, None, silent)
    found = score("keras", original_logits(tested, silent), tested.labels).as_json()
    history = {
        "network": name,
        "recipe": asdict(recipe),
        "image_size": SIZE[0],
        "preprocessing": PREPROCESSING,
        "training_images": len(data),
        "keras": keras.__version__,
        "epochs": {key: [float(x) for x in values] for key, values in fitted.history.items()},
        "test": {key: found[key] for key in ("images", "correct", "top1")},
    }
    result_file.write(history, path.with_suffix(".history.json"))
    return history


@click.command()
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(name: str, output: Path) -> None:
    """Train NAME on Fashion-MNIST at 32x32."""
    test = train(name, output)["test"]
    click.echo(f"{output}: top-1 {test['top1']:.4f} ({test['correct']} of {test['images']})")


if __name__ == "__main__":
    main()
