"""The commands as users meet them: what they say, what they leave, how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import main
from tests.exporter import networks


def run(*args: object) -> Result:
    """Run a command in this process; a stack trace is a failure of the test."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def assert_refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.output


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def plain(keras: ModuleType, work: Path) -> str:
    networks.save(networks.plain(keras), work / "plain.keras")
    return "plain.keras"


def export_plain(plain: str, data: str, *more: object) -> Result:
    options = ("--preprocess", "unit", "--data", data, "-o", "out")
    return run("export", plain, "--to", "ort", *options, *more)


def test_unknown_model_lists_the_nearest(work: Path) -> None:
    assert_refused(run("export", "resnet19", "--to", "ort"), 2, "unknown model", "resnet18")
    assert leftovers(work) == []


def test_unknown_target_and_precision_are_refused(work: Path) -> None:
    assert_refused(run("export", "resnet18", "--to", "nope"), 2, "'onnx'", "'ort'")
    refused = run("export", "resnet18", "--to", "ort", "--precision", "fp16")
    assert_refused(refused, 2, "does not support fp16", "fp32, int8")


def test_a_zoo_model_without_weights_says_how_to_get_them(work: Path) -> None:
    refused = run("export", "resnet152", "--to", "onnx")
    assert_refused(refused, 2, "exporter train resnet152", "--weights random")


def test_missing_files(work: Path) -> None:
    assert_refused(run("export", "gone.keras", "--to", "ort"), 2, "no such file: gone.keras")
    assert_refused(run("export", "some/folder", "--to", "ort"), 2, "no such file or folder")
    assert_refused(run("inspect", "gone"), 2, "not an artifact")
    assert_refused(run("evaluate", "gone", "--data", "fashion-mnist"), 2, "not an artifact")


@pytest.mark.parametrize("batch", ["0", "x", "4:2:8", "1:2", "1:2:3:4"])
def test_bad_batch(work: Path, batch: str) -> None:
    refused = run("export", "resnet18", "--to", "ort", "--batch", batch)
    assert_refused(refused, 2, "bad batch", "MIN:OPT:MAX")


@pytest.mark.parametrize("damage", ["cut", "text", "no config"])
@pytest.mark.tf
def test_damaged_keras_file(plain: str, work: Path, damage: str) -> None:
    whole = Path(plain).read_bytes()
    if damage == "cut":
        Path(plain).write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        Path(plain).write_text("not a model")
    else:
        import zipfile

        with zipfile.ZipFile(plain, "w") as archive:
            archive.writestr("something.else", "x")
    assert_refused(run("export", plain, "--to", "ort", "-o", "out"), 1, "plain.keras", "readable")
    assert leftovers(work) == ["plain.keras"]


@pytest.mark.tf
def test_damaged_weights(plain: str, work: Path) -> None:
    import zipfile

    with zipfile.ZipFile(plain) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.weights.h5"] = members["model.weights.h5"][:1000]
    with zipfile.ZipFile(plain, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert_refused(run("export", plain, "--to", "ort"), 1, "can't load plain.keras", "damaged")
    assert leftovers(work) == ["plain.keras"]


@pytest.mark.tf
def test_wrong_channels_for_the_data(keras: ModuleType, work: Path, tiny_data: str) -> None:
    networks.save(networks.plain(keras, channels=3), work / "rgb.keras")
    refused = export_plain("rgb.keras", tiny_data)
    assert_refused(refused, 2, "takes images with 3 channel(s)", "tiny.npz has 1")
    assert leftovers(work) == ["rgb.keras"]


@pytest.mark.tf
def test_preprocessing_is_never_guessed(plain: str, work: Path, tiny_data: str) -> None:
    refused = run("export", plain, "--to", "ort", "--data", tiny_data)
    assert_refused(refused, 2, "--preprocess")


@pytest.mark.tf
def test_a_lambda_layer_is_refused_unless_unsafe(keras: ModuleType, work: Path) -> None:
    networks.save(networks.with_lambda(keras), work / "code.keras")
    refused = run("export", "code.keras", "--to", "ort", "-o", "out")
    assert_refused(refused, 2, "Lambda layers (twice)", "--unsafe")
    assert leftovers(work) == ["code.keras"]
    assert run("export", "code.keras", "--to", "ort", "-o", "out", "--unsafe").exit_code == 0


@pytest.mark.tf
def test_a_lambda_layer_is_never_run_by_accident(keras: ModuleType, work: Path) -> None:
    # Loading alone would run it; the mark proves that nothing did.
    inputs = keras.Input((4, 4, 1))
    mark = str(work / "was-run")
    code = keras.layers.Lambda(lambda t, mark=mark: (open(mark, "w").close(), t)[1])
    model = keras.Model(inputs, keras.layers.Flatten()(code(inputs)))
    networks.save(model, work / "code.keras")
    Path(mark).unlink()
    assert run("export", "code.keras", "--to", "ort").exit_code == 2
    assert not Path(mark).exists()


@pytest.mark.tf
def test_an_op_that_does_not_convert(keras: ModuleType, work: Path) -> None:
    networks.with_cholesky(keras)  # so Keras numbers the next one
    model = networks.with_cholesky(keras)
    (name,) = (op.name for op in model.operations if op.name.startswith("cholesky"))
    assert name != "cholesky"
    networks.save(model, work / "odd.keras")
    refused = run("export", "odd.keras", "--to", "onnx", "-o", "out")
    assert_refused(refused, 1, f"Cholesky in layer {name!r}")
    assert leftovers(work) == ["odd.keras"]


@pytest.mark.tf
def test_bad_data_folders(plain: str, work: Path) -> None:
    (work / "empty").mkdir()
    assert_refused(export_plain(plain, "folder:empty"), 2, "no images in empty")
    (work / "bad" / "cat").mkdir(parents=True)
    (work / "bad" / "cat" / "1.png").write_bytes(b"no picture")
    assert_refused(export_plain(plain, "folder:bad"), 2, "can't read image bad/cat/1.png")
    assert_refused(export_plain(plain, "nonsense"), 2, "fashion-mnist, folder:PATH or npz:PATH")
    assert leftovers(work) == ["bad", "empty", "plain.keras"]


@pytest.mark.tf
def test_labels_out_of_range(plain: str, work: Path, tiny_data: str) -> None:
    assert export_plain(plain, tiny_data).exit_code == 0
    np.savez("far.npz", images=np.zeros((4, 16, 16), np.uint8), labels=np.array([0, 1, 2, 7]))
    refused = run("evaluate", "out", "--data", "npz:far.npz")
    assert_refused(refused, 2, "labels 0 to 7", "classes 0 to 2")


@pytest.mark.tf
def test_output_in_use(plain: str, work: Path, tiny_data: str) -> None:
    assert export_plain(plain, tiny_data).exit_code == 0
    before = (work / "out" / "passport.json").read_bytes()
    assert_refused(export_plain(plain, tiny_data), 2, "out already exists", "--force")
    assert (work / "out" / "passport.json").read_bytes() == before
    assert export_plain(plain, tiny_data, "--force", "--layout", "nchw").exit_code == 0
    assert json.loads((work / "out" / "passport.json").read_text())["layout"] == "nchw"
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("precious")
    refused = run("export", plain, "--to", "ort", "-o", "mine", "--force")
    assert_refused(refused, 2, "is not an artifact")
    assert leftovers(work) == ["mine", "out", "plain.keras"]
    assert leftovers(work / "mine") == ["thesis.txt"]


@pytest.mark.tf
def test_a_changed_file_is_refused(plain: str, work: Path, tiny_data: str) -> None:
    assert export_plain(plain, tiny_data).exit_code == 0
    assert run("inspect", "out").exit_code == 0
    with (work / "out" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert_refused(run("inspect", "out"), 1, "SHA-256 differs")
    assert_refused(run("evaluate", "out", "--data", tiny_data), 1, "SHA-256 differs")


@pytest.mark.tf
def test_another_original_is_refused(
    keras: ModuleType, plain: str, work: Path, tiny_data: str
) -> None:
    assert export_plain(plain, tiny_data).exit_code == 0
    networks.save(networks.shake_statistics(networks.plain(keras), seed=5), work / plain)
    refused = run("evaluate", "out", "--data", tiny_data)
    assert_refused(refused, 2, "not the network", "--original")


@pytest.mark.tf
@pytest.mark.parametrize("more", [(), ("--batch", "7"), ("--layout", "nchw")])
def test_export_then_evaluate(
    plain: str, work: Path, tiny_data: str, more: tuple[str, ...]
) -> None:
    exported = export_plain(plain, tiny_data, "--json", *more)
    assert exported.exit_code == 0, exported.output
    passport = json.loads(exported.stdout)
    assert passport["check"]["label_flips"] == 0
    assert passport["passes"]["fold_batch_norm"]["applied"] == 1
    assert set(passport["files"]) == {"model.onnx"}
    result = json.loads(run("evaluate", "out", "--data", tiny_data, "--json").stdout)
    keras_row, row = result["results"]
    assert row["images"] == keras_row["images"] == 96
    assert row["correct"] == keras_row["correct"]
    assert row["flips"] == []
    assert row["against_keras"]["max_relative_error"] < 1e-5
    kept = json.loads((work / "out" / "passport.json").read_text())["measured"]["accuracy"]
    assert kept["correct"] == row["correct"]


@pytest.mark.tf
def test_flips_are_listed_by_image(plain: str, work: Path, tiny_data: str) -> None:
    """A graph with two classes swapped must be caught, on exactly the images it changes."""
    import onnx

    from exporter.artifact import folder as artifact

    assert export_plain(plain, tiny_data).exit_code == 0
    honest = json.loads(run("evaluate", "out", "--data", tiny_data, "--json").stdout)
    proto = onnx.load(work / "out" / "model.onnx")
    swap = onnx.numpy_helper.from_array(np.array([1, 0, 2], np.int64), "swap")
    proto.graph.initializer.append(swap)
    proto.graph.node[-1].output[0] = "straight"
    gather = onnx.helper.make_node("Gather", ["straight", "swap"], ["logits"], axis=1)
    proto.graph.node.append(gather)
    onnx.save(proto, work / "out" / "model.onnx")
    passport = artifact.read(work / "out").passport
    artifact.seal(work / "out", {k: v for k, v in passport.items() if k != "files"})
    result = json.loads(run("evaluate", "out", "--data", tiny_data, "--json").stdout)
    flips = result["results"][1]["flips"]
    assert flips
    assert all({flip["keras"], flip["artefact"]} == {0, 1} for flip in flips)
    agreement = result["results"][1]["against_keras"]
    assert agreement["label_flips"] == len(flips) == len({flip["image"] for flip in flips})
    assert honest["results"][1]["flips"] == []


SMALL_FILES = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
sys.argv = ["exporter", *sys.argv[1:]]
from exporter.cli.main import main
main()
"""


def command(*args: str) -> list[str]:
    return [sys.executable, "-c", "from exporter.cli.main import main; main()", *args]


@pytest.mark.tf
def test_a_full_disk_leaves_nothing(plain: str, work: Path) -> None:
    """A limit on the size of files makes the kernel refuse the write, as a full disk does."""
    args = ["export", plain, "--to", "ort", "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, *args], capture_output=True, text=True, cwd=work
    )
    assert done.returncode == 1, done.stderr
    assert "compile for ort" in done.stderr, "it must be the artefact that could not be written"
    assert "error: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers(work) == ["plain.keras"]


@pytest.mark.tf
def test_ctrl_c_leaves_nothing(plain: str, work: Path) -> None:
    process = subprocess.Popen(
        command("export", plain, "--to", "ort", "-o", "out"),
        stderr=subprocess.PIPE,
        text=True,
        cwd=work,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "convert to ONNX" in line:
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with process.stderr:
        rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert leftovers(work) == ["plain.keras"]


def test_models_and_doctor_speak_json() -> None:
    zoo = json.loads(run("models", "--json").stdout)["models"]
    assert {"resnet18", "resnet152", "resnext50_32x4d"} <= {row["name"] for row in zoo}
    diagnosis = json.loads(run("doctor", "--json").stdout)
    assert {row["target"] for row in diagnosis["targets"]} >= {"onnx", "ort"}


@pytest.mark.parametrize(
    "name",
    [[], ["export"], ["compile"], ["train"], ["evaluate"], ["inspect"], ["sensitivity"]],
)
def test_help_teaches(name: list[str]) -> None:
    result = run(*name, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
