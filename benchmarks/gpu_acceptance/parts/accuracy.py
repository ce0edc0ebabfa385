"""Part a: do FP32, TF32 and FP16 on CUDA give the same labels as Keras and our simulation?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.accuracy import measure as accuracy
from benchmarks.accuracy.measure import Logits
from benchmarks.gpu_acceptance import handover
from benchmarks.gpu_acceptance.handover import KERAS
from benchmarks.gpu_acceptance.parts import Task
from benchmarks.gpu_acceptance.parts.engines import Variant, all_finished, open_on
from benchmarks.gpu_acceptance.run import classify
from benchmarks.latency import worker
from exporter.data import datasets
from exporter.network.agreement import compare


def answer(job: str) -> worker.Answer:
    """Classify the test images with every variant of every network."""
    task = Task.from_json(job)
    prepared = handover.read(task.folder)
    count = min(task.images or len(prepared.images), len(prepared.images))
    whole = prepared.images
    images = replace(whole, images=whole.images[:count], labels=whole.labels[:count])
    rows = []
    for case in prepared.cases:
        logits = {name: values[:count] for name, values in case.logits.items()}
        for variant, made in all_finished(case, task.work, task.device):
            got = classify(made, images, partial(open_on, device=task.device))
            placement = made.passport[made.target].get("placement")
            row = figures(variant, got, logits, images.labels)
            rows.append({"model": case.model, **row, "placement": placement})
    return {"images": count, "of": prepared.test_images, "rows": rows}


def figures(
    variant: Variant, got: Logits, logits: dict[str, Logits], labels: datasets.Labels
) -> dict[str, Any]:
    """Compare one variant's logits with Keras' and, in FP16, with the simulation's.

    Args:
        variant: the one that gave them.
        got: (images, classes).
        logits: (images, classes) of Keras and of the simulations, by name.
        labels: (images,).
    """
    keras = logits[KERAS]
    scored = accuracy.score(variant.name, got, labels, keras)
    found: dict[str, Any] = {
        "variant": variant.name,
        "accuracy": {**scored.as_json(), "flips": None},
        "flipped": _flipped(keras, got),
        "simulation": None,
    }
    if variant.precision in handover.SIMULATED:
        simulated = logits[variant.precision]
        found["simulation"] = {
            **compare(simulated, got).as_json(),
            "predicted": _flipped(keras, simulated),
        }
    return found


def _flipped(reference: Logits, got: Logits) -> list[int]:
    """Return the images whose label differs."""
    return [int(index) for index in np.flatnonzero(reference.argmax(-1) != got.argmax(-1))]
