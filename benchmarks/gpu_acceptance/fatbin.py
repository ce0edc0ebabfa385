"""Machine code for GPUs inside a library, and how to remove what a given GPU never runs.

A library built by nvcc keeps its kernels in the section ``.nv_fatbin``: containers, one per
source file, each with one entry per architecture. At load time the driver takes the one entry of
a container that fits the GPU best. That machine never uses the others. :func:`slim` removes
them. Each container keeps its place and becomes what nvcc would have written for the wanted
GPUs alone: the entries that stay move up, the container's size says so, and zeros fill the rest.
No byte outside the section changes. The file is as long as before; compression removes the zeros.

NVIDIA does not document the format. Sources: the files that nvcc 13.0 writes, with NVIDIA's
``cuobjdump`` 13.4 as the oracle (``tests/benchmarks/test_gpu_fatbin.py``). Which code runs where:
CUDA C++ Programming Guide, "Binary Compatibility" (same major version, same or lower minor
version), "PTX Compatibility" (same or lower version) and "Family-Specific Architecture Features"
(``sm_90a`` runs on 9.0 only, ``sm_100f`` from there up in its family). None of the oracles is a
driver. The acceptance run shows that a slimmed library computes the same as the whole one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.errors import ExporterError, WrongUse

SECTION = b".nv_fatbin"
PTX, ELF = 1, 2
_MAGIC, _VERSION = 0xBA55ED50, 1
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes after it
_SIZE_AT = 8
# kind, -, bytes of this header, bytes of content, four others, architecture, two others, flags
_ENTRY = struct.Struct("<HHIQIIHHIIIQ")
_ONLY_THIS = 0x100000  # sm_90a


@dataclass(frozen=True, order=True)
class Gpu:
    """A GPU's compute capability, such as 9.0 for Hopper."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Gpu:
        """Read "9.0".

        Raises:
            WrongUse: it is no compute capability.
        """
        if (found := re.fullmatch(r"(\d{1,2})\.(\d)", text)) is None:
            raise WrongUse(f"{text!r} is no compute capability", hint="such as 9.0 for Hopper")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Write it as NVIDIA does."""
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class Entry:
    """One architecture's code in a container.

    Attributes:
        kind: :data:`PTX`, :data:`ELF`, or a number this module doesn't know.
        made_for: the architecture.
        only_this: whether it runs on exactly that architecture (``sm_90a``).
        start: where it begins in the file, with its own header.
        end: where the next one begins.
    """

    kind: int
    made_for: Gpu
    only_this: bool
    start: int
    end: int

    def runs_on(self, gpu: Gpu) -> bool:
        """Whether the driver could take this entry on that GPU."""
        if self.only_this:
            return self.made_for == gpu
        if self.kind == PTX:
            return self.made_for <= gpu
        return self.made_for.major == gpu.major and self.made_for.minor <= gpu.minor


@dataclass(frozen=True)
class Container:
    """Where a container begins in the file, and its entries."""

    start: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Slimmed:
    """The result of :func:`slim`: the number of containers, and the bytes kept and removed."""

    containers: int
    kept: int
    removed: int


def slim(library: bytearray, gpus: Sequence[Gpu]) -> Slimmed:
    """Remove, in place, all GPU code that none of these GPUs would run.

    A library without GPU code is not changed. A container in which nothing fits isn't either, so
    the driver sees the same as before.

    Raises:
        ExporterError: the file is no 64-bit ELF file, or its section is not as expected.
    """
    found = list(containers(library))
    before = kept = 0
    for container in found:
        before += sum(entry.end - entry.start for entry in container.entries)
        wanted = {entry for gpu in gpus for entry in needed(container.entries, gpu)}
        staying = [
            entry
            for entry in container.entries
            if not wanted or entry in wanted or entry.kind not in (PTX, ELF)
        ]
        kept += _rewrite(library, container, staying)
    return Slimmed(len(found), kept, before - kept)


def _rewrite(library: bytearray, container: Container, staying: Sequence[Entry]) -> int:
    """Move the entries that stay to the container's front; return their size in bytes."""
    if not container.entries:
        return 0
    first, last = container.entries[0].start, container.entries[-1].end
    content = b"".join(library[entry.start : entry.end] for entry in staying)
    library[first:last] = content.ljust(last - first, b"\0")
    struct.pack_into("<Q", library, container.start + _SIZE_AT, len(content))
    return len(content)


def needed(entries: Sequence[Entry], gpu: Gpu) -> list[Entry]:
    """Choose what the driver may take on a GPU: fitting machine code, or else the best PTX."""
    fitting = [entry for entry in entries if entry.runs_on(gpu)]
    if code := [entry for entry in fitting if entry.kind == ELF]:
        return code
    ptx = [entry for entry in fitting if entry.kind == PTX]
    best = max((entry.made_for for entry in ptx), default=None)
    return [entry for entry in ptx if entry.made_for == best]


def containers(library: bytes | bytearray) -> Iterator[Container]:
    """Find the containers.

    Raises:
        ExporterError: the section holds something else, or a size leads out of it.
    """
    start, end = _section(library)
    position = start
    while position < end:
        if not any(library[position : position + 8]):  # padding between two containers
            position += 8
            continue
        if position + _CONTAINER.size > end:
            raise _unexpected(position)
        magic, version, header, size = _CONTAINER.unpack_from(library, position)
        after = position + header + size
        if (magic, version) != (_MAGIC, _VERSION) or header < _CONTAINER.size or after > end:
            raise _unexpected(position)
        yield Container(position, tuple(_entries(library, position + header, after)))
        position = after


def _entries(library: bytes | bytearray, position: int, end: int) -> Iterator[Entry]:
    while position < end:
        if position + _ENTRY.size > end:
            raise _unexpected(position)
        kind, _, header, size, *_, code, _, _, flags = _ENTRY.unpack_from(library, position)
        if header < _ENTRY.size or position + header + size > end:
            raise _unexpected(position)
        # sm_100f runs on its family from there up, as plain code does within a major version.
        only_this = bool(flags & _ONLY_THIS)
        after = position + header + size
        yield Entry(kind, Gpu(*divmod(code, 10)), only_this, position, after)
        position = after


def _section(library: bytes | bytearray) -> tuple[int, int]:
    """Find the section's first byte and the one after its last; (0, 0) if there is none."""
    try:
        if library[:6] != b"\x7fELF\x02\x01":
            raise ExporterError("no 64-bit little-endian ELF file")
        (table,) = struct.unpack_from("<Q", library, 0x28)
        row, rows, names = struct.unpack_from("<HHH", library, 0x3A)
        # name, type, flags, address, offset, size
        sections = [
            struct.unpack_from("<IIQQQQ", library, table + row * index) for index in range(rows)
        ]
        if not sections:
            return 0, 0
        texts = sections[names][4]
        for name, *_, offset, size in sections:
            wanted = texts + name
            if library[wanted : wanted + len(SECTION) + 1] == SECTION + b"\0":
                if offset + size > len(library):
                    raise _unexpected(offset)
                return offset, offset + size
    except (struct.error, IndexError) as error:
        raise ExporterError("damaged ELF file: its table of sections leads out of it") from error
    return 0, 0


def _unexpected(position: int) -> ExporterError:
    return ExporterError(
        f"the GPU code at byte {position} is not laid out as this version knows it",
        hint="pack without leaving code out: --gpu all",
    )
