"""Artefacts: written whole or not at all, and opened only if they are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exporter.artifact import folder as artifact
from exporter.errors import ExporterError, WrongUse

FIELDS: dict[str, Any] = {
    "source": {},
    "target": "ort",
    "precision": "fp32",
    "layout": "nhwc",
    "batch": {},
    "graph": {},
    "passes": {},
    "check": {},
}


def write(output: Path, content: str = "graph", *, force: bool = False) -> None:
    with artifact.writing(output, force=force) as folder:
        (folder / "model.onnx").write_text(content)
        artifact.seal(folder, FIELDS)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    found = artifact.read(tmp_path / "a")
    assert found.file("model.onnx").read_text() == "graph"
    assert found.record("accuracy", 1).passport["measured"] == {"accuracy": 1}
    assert artifact.read(tmp_path / "a").passport["measured"] == {"accuracy": 1}
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_whatever_ends_it_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write_half() -> None:
        with artifact.writing(tmp_path / "a", force=False) as folder:
            (folder / "model.onnx").write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == []


def test_missing_parents_are_made_and_removed_if_it_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        artifact.writing(tmp_path / "a" / "b" / "c", force=False),
    ):
        raise KeyboardInterrupt
    assert not names(tmp_path)
    write(tmp_path / "a" / "b" / "c")
    assert artifact.read(tmp_path / "a" / "b" / "c").target == "ort"


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WrongUse, match="is a file"):
        artifact.check_free(tmp_path / "file" / "b" / "c", force=False)


def test_somebody_else_writing_there_meanwhile_keeps_theirs(tmp_path: Path) -> None:
    with (
        pytest.raises(WrongUse, match="already exists"),
        artifact.writing(tmp_path / "a", force=False),
    ):
        write(tmp_path / "a", "theirs")
    assert artifact.read(tmp_path / "a").file("model.onnx").read_text() == "theirs"
    assert names(tmp_path) == ["a"]


def test_a_swap_that_fails_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", "old")
    rename = artifact.os.rename

    def fail_on_the_new(source: Path, target: Path) -> None:
        if target == tmp_path / "a" and (Path(source) / "model.onnx").read_text() == "new":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(artifact.os, "rename", fail_on_the_new)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", "new", force=True)
    assert artifact.read(tmp_path / "a").file("model.onnx").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_links_and_nameless_folders_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "link", Path("."), Path("/")):
        with pytest.raises(WrongUse, match="can't be the name of a new folder"):
            write(place, force=True)
    assert names(tmp_path) == ["a", "link"]


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link"])
def test_files_outside_are_never_opened(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    file = tmp_path / "a" / "passport.json"
    passport = json.loads(file.read_text())
    passport["files"][name] = {"sha256": artifact.sha256(tmp_path / "secret"), "bytes": 1}
    file.write_text(json.dumps(passport))
    with pytest.raises(ExporterError, match="outside"):
        artifact.read(tmp_path / "a").file(name)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 1}', '{"format": true}', "[" * 100_000, "\0"],
)
def test_a_damaged_passport_is_one_clear_error(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "passport.json").write_text(text)
    with pytest.raises(ExporterError, match="is damaged"):
        artifact.read(tmp_path / "a")


def test_bytes_are_hashed_as_they_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can change the file between a check and a read would have code of theirs run."""
    write(tmp_path / "a", "the graph")
    found = artifact.read(tmp_path / "a")
    monkeypatch.setattr(artifact, "sha256", lambda _: pytest.fail("read a second time"))
    assert found.read_bytes("model.onnx") == b"the graph"
    (tmp_path / "a" / "model.onnx").write_text("another")
    with pytest.raises(ExporterError, match="SHA-256 differs"):
        found.read_bytes("model.onnx")
    with pytest.raises(ExporterError, match="doesn't list a file"):
        found.read_bytes("engine.plan")


@pytest.mark.parametrize("files", [[], {"model.onnx": {}}, {"model.onnx": "x"}, None])
def test_a_passport_without_hashes_is_damaged(tmp_path: Path, files: Any) -> None:
    write(tmp_path / "a")
    text = json.dumps({"format": artifact.FORMAT, **FIELDS, "files": files})
    (tmp_path / "a" / "passport.json").write_text(text)
    with pytest.raises(ExporterError, match="is damaged"):
        artifact.read(tmp_path / "a")


def test_measurements_of_another_type_are_damage(tmp_path: Path) -> None:
    write(tmp_path / "a")
    file = tmp_path / "a" / "passport.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "measured": 5}))
    with pytest.raises(ExporterError, match="is damaged"):
        artifact.read(tmp_path / "a")


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "passport.json").write_text('{"format": 99}')
    with pytest.raises(
        ExporterError, match="format 99, but this version of exporter reads format 1"
    ):
        artifact.read(tmp_path / "a")


def test_measurements_made_side_by_side_are_both_kept(tmp_path: Path) -> None:
    write(tmp_path / "a")
    slow, quick = artifact.read(tmp_path / "a"), artifact.read(tmp_path / "a")
    quick.record("latency", 2)
    slow.record("accuracy", 1)
    kept = artifact.read(tmp_path / "a").passport["measured"]
    assert kept == {"latency": 2, "accuracy": 1}


def test_what_was_measured_is_not_recorded_of_another_artefact(tmp_path: Path) -> None:
    write(tmp_path / "a")
    measured = artifact.read(tmp_path / "a")
    write(tmp_path / "a", "another graph", force=True)
    with pytest.raises(ExporterError, match="was replaced during the measurement, so accuracy"):
        measured.record("accuracy", 1)
    assert "measured" not in artifact.read(tmp_path / "a").passport


def test_a_link_in_a_strangers_folder_is_not_written_through(tmp_path: Path) -> None:
    write(tmp_path / "a")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("passport.part", ".passport.json-"):
        (tmp_path / "a" / name).symlink_to(victim)
    artifact.read(tmp_path / "a").record("accuracy", 1)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a" / "passport.json").is_symlink()


def external(where: str) -> bytes:
    """A graph with one weight in another file, there as an initializer or inside a node."""
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4]) for n in "xy")
    add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    if where == "initializer":
        graph = onnx.helper.make_graph([add], "g", [x], [y], [tensor])
    elif where == "constant":
        constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
        graph = onnx.helper.make_graph([constant, add], "g", [x], [y])
    else:
        inner = onnx.helper.make_graph([add], "inner", [], [y], [tensor])
        branch = onnx.helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)
        graph = onnx.helper.make_graph([branch], "g", [x], [y])
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
def test_weights_in_a_file_that_no_hash_covers_are_refused(tmp_path: Path, where: str) -> None:
    with artifact.writing(tmp_path / "a", force=False) as folder:
        (folder / "model.onnx").write_bytes(external(where))
        (folder / "weights.bin").write_bytes(bytes(16))
        artifact.seal(folder, FIELDS)
    with pytest.raises(ExporterError, match="stores 'w' in another file"):
        artifact.read(tmp_path / "a").file("model.onnx")
