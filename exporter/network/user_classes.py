"""The user's own classes: import what ``--import`` names, and name the classes still missing."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from exporter.errors import WrongUse
from exporter.untrusted import layer_configs

_DEFAULT_PACKAGE = "Custom"  # of keras.saving.register_keras_serializable
_NO_MODULE = (None, "", "builtins", "__main__")


def load(imports: Iterable[str]) -> dict[str, Any]:
    """Import modules, and collect their classes and functions by name.

    Classes that are registered with Keras are found without this. The others are found by their
    name, as in the ``custom_objects`` of ``keras.models.load_model``.

    Args:
        imports: names of modules (``keras_hub``) or paths of ``.py`` files.

    Raises:
        WrongUse: a module can't be imported. The message has its own error.
    """
    found: dict[str, Any] = {}
    for name in imports:
        module = _import(name)
        found |= {
            key: value
            for key, value in vars(module).items()
            if inspect.isclass(value) or inspect.isfunction(value)
        }
    return found


def _import(name: str) -> ModuleType:
    path = Path(name)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise WrongUse(f"no such file: {name}", hint="--import takes a module or a .py file")
    try:
        return _import_file(path) if is_file else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        where = [step for step in traceback.extract_tb(error.__traceback__) if _is_users(step)]
        place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if where else ""
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        raise WrongUse(
            f"--import {name} failed: {type(error).__name__}: {error}{place}",
            hint=f"install it, or give its file: --import {name}.py"
            if missing
            else "mend the module, or leave out --import if the network doesn't need it",
        ) from error


def _is_users(step: traceback.FrameSummary) -> bool:
    return "importlib" not in step.filename and step.filename != __file__


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name; a second time, return the same module."""
    place = path.resolve()
    loaded = sys.modules.get(place.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(place):
        return loaded
    # Under another name, if there is such a module already: never replace one that is in use.
    suffix = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    name = place.stem if loaded is None else f"{place.stem}_{suffix}"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up there
    sys.path.insert(0, str(place.parent))  # for the modules beside it, as python FILE.py does
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(place.parent))
    return module


def refuse_missing(path: Path, config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a configuration with classes that are neither Keras' nor loaded.

    Args:
        path: of the file, for the message.
        config: as Keras 3 stores it. Older files don't say where a class comes from.
        own: classes by name, from :func:`load`.

    Raises:
        WrongUse: classes are missing. The hint names what to import.
    """
    missing = dict(_missing(config, own))
    if not missing or any(name.startswith("tf_keras.") for name in missing.values()):
        return  # Keras itself says that it can't load a file of Keras 2
    classes = ", ".join(missing)
    imports = dict.fromkeys(missing.values())
    raise WrongUse(
        f"{path} needs classes that are not part of Keras: {classes}",
        hint="load them with " + " ".join(f"--import {one}" for one in imports),
    )


def _missing(config: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each missing class, and what to import for it."""
    import keras

    for node in layer_configs(config):
        name, registered = node["class_name"], node.get("registered_name")
        module = node.get("module")
        if not registered or str(module).split(".")[0] == "keras":
            continue
        if name in own or keras.saving.get_registered_object(registered, own) is not None:
            continue
        package = str(registered).split(">")[0] if ">" in str(registered) else _DEFAULT_PACKAGE
        known = None if module in _NO_MODULE else str(module)
        if package != _DEFAULT_PACKAGE and known and known.split(".")[0] == package:
            known = package
        yield str(registered).removeprefix(f"{_DEFAULT_PACKAGE}>"), known or f"FILE_OF_{name}.py"
