"""Start a GPU test kit: join its pieces, install it into a folder, and run it.

    python start.py                     all of it, with results in ./gpu-acceptance
    python start.py --install-only      without the run
    python start.py -o OUT --rehearse   what this script doesn't know goes on to the run

``--rehearse`` asks for no GPU: neither driver nor CUDA is checked.

This file is copied into the kit as it is. It needs Python's standard library and nothing else, so
it also says what is wrong on machines where nothing of ours is installed. It gives one line per
fault, and each line says what to do. Exit codes: the run's own; before the run 1 (the kit is
damaged), 2 (wrong use) or 4 (something is missing on this machine).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = re.compile(r"kit\.\d{3}")
WHEELS, SITE, PREPARED = "wheels", "site", "prepared"
INSTALLED = "installed.json"
_NEEDS = {"python", "platform", "glibc", "cuda", "driver", "for", "libraries", "modules"}
_NEEDS |= {"disk_bytes", "wheels"}
_CHUNK = 1 << 20
_AGAIN = "copy it again from where the kit was packed"


class Stop(Exception):
    """Ends the script with an exit code and one line per fault."""

    def __init__(self, exit_code: int, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.exit_code = exit_code
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Machine:
    """What matters of a machine.

    Attributes:
        python: such as "3.12".
        platform: such as "Linux x86_64".
        glibc: such as (2, 39); None if it is another library.
        driver: NVIDIA's, such as "580.65.06"; None without one.
        libraries: file names of CUDA's and cuDNN's libraries, such as "libcudart.so.13".
        free_bytes: room on the disk that the kit is installed on.
    """

    python: str
    platform: str
    glibc: tuple[int, int] | None
    driver: str | None
    libraries: frozenset[str]
    free_bytes: int


def this_machine(folder: Path) -> Machine:
    """Describe this machine. The kit will be installed into that folder."""
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    libraries = {file.name for place in library_folders() for file in place.glob("lib*.so*")}
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return Machine(
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
        platform=f"{platform.system()} {platform.machine()}",
        glibc=numbers(version) if name == "glibc" else None,
        driver=driver_version(),
        libraries=frozenset(libraries),
        free_bytes=shutil.disk_usage(existing).free,
    )


def numbers(version: str) -> tuple[int, int]:
    """Turn "2.39" or "2.39.1" into (2, 39). A part that is no number becomes 0."""
    found = [int(part) for part in re.findall(r"\d+", version)[:2]]
    first, second = (*found, 0, 0)[:2]
    return first, second


def driver_version() -> str | None:
    """Ask ``nvidia-smi`` for the driver's version, or else the kernel."""
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(question, capture_output=True, text=True, timeout=30, check=True)
        answer = done.stdout
    except (OSError, subprocess.SubprocessError):
        kernel = Path("/proc/driver/nvidia/version")
        answer = kernel.read_text(encoding="utf-8") if kernel.is_file() else ""
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", answer)
    return found[0] if found else None


def library_folders() -> list[Path]:
    """List the folders that may have CUDA's and cuDNN's libraries, packages first."""
    packages = [place for entry in sys.path for place in Path(entry).glob("nvidia/*/lib")]
    listed = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    system = ["/usr/local/cuda/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
    return [*packages, *(Path(name) for name in (*filter(None, listed), *system))]


def machine_faults(needs: dict[str, Any], machine: Machine, *, gpu: bool) -> list[str]:
    """List what this machine lacks of the manifest's ``needs``, one line each."""
    checks = [_python, _platform, _glibc, _disk, *([_driver, _libraries] if gpu else [])]
    return [fault for check in checks if (fault := check(needs, machine))]


def _python(needs: dict[str, Any], machine: Machine) -> str | None:
    if machine.python == needs["python"]:
        return None
    wanted = needs["python"]
    return (
        f"this is Python {machine.python}, and the kit is for {wanted}: run python{wanted} start.py"
    )


def _platform(needs: dict[str, Any], machine: Machine) -> str | None:
    if machine.platform == needs["platform"]:
        return None
    return f"this is {machine.platform}, and the kit is for {needs['platform']}: use such a machine"


def _glibc(needs: dict[str, Any], machine: Machine) -> str | None:
    wanted = numbers(needs["glibc"])
    if machine.glibc is not None and machine.glibc >= wanted:
        return None
    here = "no glibc" if machine.glibc is None else "glibc {}.{}".format(*machine.glibc)
    return f"this system has {here}, and the wheels need {needs['glibc']}: use a newer system"


def _disk(needs: dict[str, Any], machine: Machine) -> str | None:
    if machine.free_bytes >= needs["disk_bytes"]:
        return None
    here, wanted = machine.free_bytes / 1e6, needs["disk_bytes"] / 1e6
    return (
        f"the disk has {here:.0f} MB left, and {wanted:.0f} MB are needed: choose another with --to"
    )


def _driver(needs: dict[str, Any], machine: Machine) -> str | None:
    wanted, why = needs["driver"], f"{needs['for']} is built for CUDA {needs['cuda']}"
    if machine.driver is None:
        return f"no NVIDIA driver: {why}; install driver {wanted} or newer, or add --rehearse"
    if numbers(machine.driver) >= numbers(wanted):
        return None
    return (
        f"the driver is {machine.driver}: {why}, which needs driver {wanted} or newer; "
        "install a newer driver"
    )


def _libraries(needs: dict[str, Any], machine: Machine) -> str | None:
    """Look for each library in the version that the wheel was built for."""
    lacking = [name for name in needs["libraries"] if name not in machine.libraries]
    if not lacking:
        return None
    bare = {name.rpartition(".")[0] for name in lacking}
    others = sorted(
        name
        for name in machine.libraries
        if name not in lacking and name.rpartition(".")[0] in bare
    )
    here = f" (here: {', '.join(others)})" if others else ""
    packages = " ".join(dict.fromkeys(needs["libraries"][name] for name in lacking))
    return (
        f"not here: {', '.join(lacking)}{here}: {needs['for']} is built for CUDA {needs['cuda']}; "
        f"pip install {packages}"
    )


def read_manifest(kit: Path) -> dict[str, Any]:
    """Read the kit's manifest.

    Raises:
        Stop: it is missing, damaged, or of another version.
    """
    try:
        manifest = json.loads((kit / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise Stop(1, [f"{MANIFEST} has format {manifest['format']}, not {FORMAT}: {_AGAIN}"])
        rows = [(row["name"], row["bytes"], row["sha256"]) for row in manifest["pieces"]]
        if not rows or not all(PIECE.fullmatch(name) for name, _, _ in rows):
            raise ValueError("no names of pieces")
        if lacking := _NEEDS - set(manifest["needs"]):
            raise ValueError(f"it does not say what it needs: {', '.join(sorted(lacking))}")
    except FileNotFoundError:
        raise Stop(1, [f"{MANIFEST} is missing in {kit}: {_AGAIN}"]) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Stop(1, [f"{MANIFEST} is damaged ({error}): {_AGAIN}"]) from error
    return dict(manifest)


def piece_faults(kit: Path, manifest: dict[str, Any]) -> list[str]:
    """List the pieces that are missing, too short or too long, or don't belong here."""
    expected = {piece["name"]: piece["bytes"] for piece in manifest["pieces"]}
    faults = []
    for name, size in expected.items():
        if not (kit / name).is_file():
            faults.append(f"{name} is missing: {_AGAIN}")
        elif (here := (kit / name).stat().st_size) != size:
            faults.append(f"{name} has {here} bytes instead of {size}: {_AGAIN}")
    others = sorted(file.name for file in kit.iterdir() if PIECE.fullmatch(file.name))
    faults += [
        f"{name} is no piece of this kit: delete it" for name in others if name not in expected
    ]
    return faults


def join(kit: Path, manifest: dict[str, Any], archive: Path) -> None:
    """Write all pieces, one after the other, into one file.

    Raises:
        Stop: pieces are missing, damaged, or don't belong here.
    """
    if faults := piece_faults(kit, manifest):
        raise Stop(1, faults)
    with archive.open("wb") as joined:
        for piece in manifest["pieces"]:
            digest = hashlib.sha256()
            with (kit / piece["name"]).open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
                    joined.write(chunk)
            if digest.hexdigest() != piece["sha256"]:
                faults.append(f"{piece['name']} is damaged (SHA-256 differs): {_AGAIN}")
    if faults:
        raise Stop(1, faults)


def install(archive: Path, folder: Path, needs: dict[str, Any]) -> int:
    """Unpack the joined pieces, and the wheels among them into one folder of packages.

    Wheels are only unpacked, in parallel: pip would do the same, and copy every file twice.

    Returns:
        How many wheels there were.

    Raises:
        Stop: the kit lacks a wheel that the run needs.
    """
    unpack(archive, folder)
    wheels = sorted((folder / WHEELS).glob("*.whl"))
    there = {distribution(wheel) for wheel in wheels}
    lacking = [name for name in needs["wheels"] if name not in there]
    if lacking:
        raise Stop(1, [f"the kit has no wheel of {name}: pack it again" for name in lacking])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda wheel: unpack(wheel, folder / SITE, _in_site), wheels))
    shutil.rmtree(folder / WHEELS)
    return len(wheels)


def distribution(wheel: Path) -> str:
    """Return the name of a wheel's package, as the index spells it ("onnxruntime-gpu")."""
    return spelled(wheel.name.split("-")[0])


def spelled(name: str) -> str:
    """Spell a package's name as the index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _in_site(name: str) -> str | None:
    """Place a wheel's file among the packages; None for scripts and headers."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, rest = rest.partition("/")
    return rest if kind in ("purelib", "platlib") else None


def unpack(archive: Path, folder: Path, place: Callable[[str], str | None] = str) -> None:
    """Unpack a ZIP file, unless it is damaged or a name in it leads out of the folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                name = place(member.filename)
                if not name or member.is_dir():
                    continue
                if name.startswith("/") or ".." in name.split("/"):
                    raise Stop(1, [f"{archive.name} holds {name!r}, outside of its folder"])
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("wb") as written:
                    shutil.copyfileobj(source, written, _CHUNK)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise Stop(1, [f"{archive.name} is damaged ({error}): pack the kit again"]) from error


def set_up(kit: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Join and install into a new folder, whole or not at all. Skip it if it was done before.

    Raises:
        Stop: as :func:`join` and :func:`install`, or the folder is not empty.
    """
    record = folder / INSTALLED
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == manifest["pieces"]:
        print(f"installed before: {folder}")
        return
    if folder.exists() and any(folder.iterdir()):
        raise Stop(2, [f"{folder} is not empty: choose another with --to, or delete it"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        begun = time.monotonic()
        archive = aside / "kit.zip"
        join(kit, manifest, archive)
        joined = time.monotonic()
        size = f"{len(manifest['pieces'])} pieces, {archive.stat().st_size / 1e6:.0f} MB"
        print(f"joined {size}, in {joined - begun:.1f} s")
        count = install(archive, aside, manifest["needs"])
        archive.unlink()
        (aside / INSTALLED).write_text(json.dumps(manifest["pieces"]), encoding="utf-8")
        aside.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        aside.rename(folder)
        print(f"installed {count} wheels in {time.monotonic() - joined:.1f} s: {folder}")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def module_faults(needs: dict[str, Any]) -> list[str]:
    """List the modules that the machine itself should have and lacks."""
    lacking = [name for name in needs["modules"] if importlib.util.find_spec(name) is None]
    return [f"not here: {name}: pip install {name}" for name in lacking]


def run(folder: Path, output: Path, extra: Sequence[str]) -> int:
    """Start the run with our packages in front of the machine's; return its exit code.

    CUDA's libraries go onto the loader's path: onnxruntime looks for them beside itself, and they
    are in the machine's packages while onnxruntime is in our folder.
    """

    def joined(places: Sequence[Path], variable: str) -> str:
        return os.pathsep.join([*map(str, places), *filter(None, [os.environ.get(variable)])])

    packaged = [place.resolve() for place in library_folders() if place.match("nvidia/*/lib")]
    environment = {
        **os.environ,
        "PYTHONPATH": joined([(folder / SITE).resolve()], "PYTHONPATH"),
        "LD_LIBRARY_PATH": joined(packaged, "LD_LIBRARY_PATH"),
    }
    line = [sys.executable, "-m", "benchmarks.gpu_acceptance", "--run", str(folder / PREPARED)]
    line += ["--without", "tensorrt", "-o", str(output), *extra]
    print(" ".join(["run:", *line[1:]]), flush=True)
    return subprocess.run(line, env=environment, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Do all of it, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--to", type=Path, default=Path("gpu-kit"), help="install here (%(default)s)"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-acceptance"))
    parser.add_argument("--install-only", action="store_true", help="don't start the run")
    options, extra = parser.parse_known_args(arguments)
    kit = Path(__file__).resolve().parent
    try:
        manifest = read_manifest(kit)
        needs, gpu = manifest["needs"], "--rehearse" not in extra
        faults = machine_faults(needs, this_machine(options.to.resolve()), gpu=gpu)
        faults += module_faults(needs)
        if faults:
            raise Stop(4, faults)
        set_up(kit, options.to, manifest)
        return 0 if options.install_only else run(options.to, options.output, extra)
    except OSError as error:  # the disk is full after all, a folder can't be written to
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stop as stop:
        for fault in stop.faults:
            print(f"error: {fault}", file=sys.stderr)
        return stop.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
