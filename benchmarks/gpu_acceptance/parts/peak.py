"""The card's peak, by a large matrix product. Shares of the peak refer to it."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_acceptance.parts import Device, Task
from benchmarks.latency import worker
from exporter.errors import Missing

SIZE: dict[Device, int] = {"cuda": 8192, "cpu": 1024}
NUMBERS = ("fp32", "tf32", "fp16")
_PRODUCTS = 10


def answer(job: str) -> worker.Answer:
    """Return TFLOP/s by type of number: the median of ten square products."""
    task = Task.from_json(job)
    size = SIZE[task.device]
    names = NUMBERS if task.device == "cuda" else ("fp32",)
    return {
        "size": size,
        "tflops": {name: _measure(product(name, size, task.device), size) for name in names},
    }


def _measure(multiply: Callable[[], None], size: int) -> float:
    for _ in range(3):
        multiply()
    seconds = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds) / 1e12


def product(numbers: str, size: int, device: Device) -> Callable[[], None]:
    """Return a function that computes one product and waits for it.

    Raises:
        Missing: neither PyTorch nor JAX is installed.
    """
    if device == "cpu":
        square = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
        return lambda: (square @ square, None)[1]
    if importlib.util.find_spec("torch"):
        return _by_torch(numbers, size)
    if importlib.util.find_spec("jax"):
        return _by_jax(numbers, size)
    raise Missing("a matrix product needs PyTorch or JAX", hint="pip install torch")


def _by_torch(numbers: str, size: int) -> Callable[[], None]:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = numbers == "tf32"
    dtype = torch.float16 if numbers == "fp16" else torch.float32
    square = torch.randn(size, size, dtype=dtype, device="cuda")

    def multiply() -> None:
        square @ square  # the product itself does not matter
        torch.cuda.synchronize()

    return multiply


def _by_jax(numbers: str, size: int) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp

    how: Any = {"fp32": "highest", "tf32": "tensorfloat32", "fp16": None}[numbers]
    dtype = jnp.float16 if numbers == "fp16" else jnp.float32
    square = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(lambda x: jnp.matmul(x, x, precision=how))
    return lambda: multiply(square).block_until_ready()
