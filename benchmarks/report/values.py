"""Read values from untrusted JSON, and check their types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Json = Mapping[str, Any]

_LEAST, _MOST = 1e-12, 1e18  # limits of measured values; axes beyond them overflow floats


class Damaged(ValueError):
    """A value is missing or has the wrong type; the message names it."""


def text(of: Json, key: str) -> str:
    """Take a string."""
    return str(_take(of, key, lambda value: isinstance(value, str), "text"))


def number(of: Json, key: str) -> float:
    """Take a finite number."""
    return float(_take(of, key, _is_number, "a number"))


def positive(of: Json, key: str) -> float:
    """Take a number that a logarithmic axis can show."""
    return float(_take(of, key, lambda v: _is_number(v) and v >= _LEAST, "a positive number"))


def count(of: Json, key: str) -> int:
    """Take a whole number of 0 or more."""
    good: int = _take(of, key, lambda v: type(v) is int and v >= 0, "a whole number")
    return good


def mapping(of: Json, key: str) -> dict[str, Any]:
    """Take an object."""
    return dict(_take(of, key, lambda value: isinstance(value, dict), "an object"))


def numbers(of: Json, key: str) -> dict[str, float]:
    """Take an object of finite numbers."""
    found = mapping(of, key)
    return {name: number(found, name) for name in found}


def objects(of: Json, key: str) -> list[dict[str, Any]]:
    """Take a list of objects."""
    return list(_take(of, key, _is_list_of(dict), "a list of objects"))


def some_objects(of: Json, key: str) -> list[dict[str, Any]]:
    """Take a list of objects that is not empty."""
    found = objects(of, key)
    if not found:
        raise Damaged(f"{key!r} is empty")
    return found


def texts(of: Json, key: str) -> tuple[str, ...]:
    """Take a list of strings."""
    return tuple(_take(of, key, _is_list_of(str), "a list of strings"))


def maybe(take: Callable[[Json, str], T], of: Json, key: str) -> T | None:
    """Take a value that may be missing or null."""
    return None if of.get(key) is None else take(of, key)


def made(make: Callable[[Json], T], of: Json, key: str) -> T | None:
    """Build something from an object that may be missing or null."""
    found = maybe(mapping, of, key)
    return None if found is None else make(found)


def _take(of: Json, key: str, good: Callable[[Any], bool], kind: str) -> Any:
    if key not in of:
        raise Damaged(f"{key!r} is missing")
    if not good(of[key]):
        raise Damaged(f"{key!r} is not {kind}")
    return of[key]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < _MOST


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(one, kind) for one in value)
