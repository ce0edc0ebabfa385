"""`inspect` and `doctor` on engines, as users meet them: what they say and how they end."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from exporter.cli.main import main
from exporter.engines import here
from exporter.engines.inspection import inspect
from exporter.machine.gpus import Gpu, Gpus
from tests.exporter.engine_files import ORIN, artefact

ROOT = Path(__file__).parents[3]
RECORDS = ROOT / "tests" / "data" / "trt-records"
PLAIN = RECORDS / "mobilenet.qat.layers.json"
RESIDUAL = RECORDS / "mobilenet_v2_residuals.qat.layers.json"


def run(*args: object) -> Result:
    """Run a command in this process; a stack trace is a failure of the test."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class TestInspect:
    def test_two_real_engines_are_told_apart_by_the_exit_code(self) -> None:
        passed, refused = (run("inspect", path, "--require", "int8") for path in (RESIDUAL, PLAIN))
        assert (passed.exit_code, refused.exit_code) == (0, 3)
        assert "INT8 throughout" in passed.stdout
        assert "Add_144 left INT8: 410 (FP16)" in refused.stderr
        assert "Add_144" in refused.stdout  # the table comes all the same

    def test_without_a_demand_it_only_tells(self) -> None:
        result = run("inspect", PLAIN)
        assert result.exit_code == 0
        assert "shortcut has no Q/DQ" in result.stdout

    def test_times(self) -> None:
        times = RECORDS / "mobilenet.qat.profile.json"
        assert "0.4704 ms in total" in run("inspect", PLAIN, "--profile", times).stdout

    def test_json_is_whole_even_when_the_gate_says_no(self) -> None:
        result = run("inspect", PLAIN, "--json", "--require", "int8")
        assert result.exit_code == 3
        found = json.loads(result.stdout)
        assert set(found) == {"audit"}
        assert found["audit"]["precisions"] == {"INT8": 53}
        assert len(found["audit"]["int8"]["objections"]) == 10

    def test_many_objections_are_cut_short(self, tmp_path: Path) -> None:
        layers = json.loads(PLAIN.read_text())["Layers"]
        for layer in layers:
            if "Weights" in layer:
                layer["Weights"]["Type"] = "Half"
        path = tmp_path / "layers.json"
        path.write_text(json.dumps({"Layers": layers}))
        result = run("inspect", path, "--require", "int8")
        assert result.exit_code == 3
        assert "and 43 more; --json lists them all" in result.stderr

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        path = tmp_path / "layers.json"
        path.write_text('{"Layers": [3]}')
        result = run("inspect", path)
        assert result.exit_code == 1
        assert "layer 0 is not a JSON object" in result.stderr

    def test_names_with_brackets_are_shown_as_they_are(self, tmp_path: Path) -> None:
        layer = {"Name": "[/red] Conv_1 [bold]", "LayerType": "CaskConvolution"}
        path = tmp_path / "layers.json"
        path.write_text(json.dumps({"Layers": [layer]}))
        assert "[/red] Conv_1 [bold]" in run("inspect", path).stdout

    def test_an_artefact_with_its_engines_layers(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a", files={"layers.json": PLAIN.read_bytes()})
        result = run("inspect", place, "--require", "int8")
        assert result.exit_code == 3
        assert "trt, int8" in result.stdout
        found = json.loads(run("inspect", place, "--json").stdout)
        assert found["target"] == "trt"
        assert len(found["audit"]["adds"]) == 10

    def test_changed_layers_are_refused(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a", files={"layers.json": PLAIN.read_bytes()})
        shutil.copyfile(RESIDUAL, place / "layers.json")
        result = run("inspect", place, "--require", "int8")
        assert result.exit_code == 1
        assert "SHA-256 differs" in result.stderr

    def test_an_artefact_without_layers(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a")
        assert run("inspect", place).exit_code == 0
        assert "audit" not in json.loads(run("inspect", place, "--json").stdout)
        demanded = run("inspect", place, "--require", "int8")
        assert demanded.exit_code == 4
        assert "their precision is unknown" in demanded.stderr
        profile = run("inspect", place, "--profile", RECORDS / "mobilenet.qat.profile.json")
        assert profile.exit_code == 2

    def test_the_graph_tells_which_convolutions_were_grouped(self, tmp_path: Path) -> None:
        node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="Conv_1", group=4)
        graph = onnx.helper.make_graph([node], "g", [], [])
        model = onnx.helper.make_model(graph).SerializeToString()
        rows = [{"Name": f"Conv_1 + Relu_{i}", "LayerType": "CaskConvolution"} for i in range(4)]
        files = {"model.onnx": model, "layers.json": json.dumps({"Layers": rows}).encode()}
        found = inspect(artefact(tmp_path / "a", files=files)).audit
        assert found is not None
        assert [row.reason for row in found.split] == ["4 groups run as 4 layers"]

    def test_a_graph_that_is_none(self, tmp_path: Path) -> None:
        files = {"model.onnx": b"\xff\xff", "layers.json": PLAIN.read_bytes()}
        result = run("inspect", artefact(tmp_path / "a", files=files))
        assert result.exit_code == 1
        assert "not an ONNX graph" in result.stderr


class TestDoctor:
    def test_loads_on_the_machine_it_was_built_for(self, tmp_path: Path) -> None:
        result = run("doctor", artefact(tmp_path / "a"), "--for", "jetson-orin-jp6.2")
        assert result.exit_code == 0, result.output
        assert "loads" in result.stdout
        assert "compatible only with the version of TensorRT used to build them" in result.stdout
        assert "https://docs.nvidia.com/deeplearning/tensorrt" in result.stdout

    def test_does_not_load_elsewhere(self, tmp_path: Path) -> None:
        result = run("doctor", artefact(tmp_path / "a"), "--for", "t4")
        assert result.exit_code == 3
        assert "T4 has 7.5" in result.stderr
        assert "does not load" in result.stdout

    def test_what_decides_and_is_not_known(self, tmp_path: Path) -> None:
        record = {**ORIN, "arch": "x86_64", "compute_capabilities": ["7.5"], "gpu": "Tesla T4"}
        place = artefact(tmp_path / "a", record)
        asked = run("doctor", place, "--for", "t4")
        assert asked.exit_code == 4
        assert "--tensorrt" in asked.stderr
        assert "--driver" in asked.stderr
        told = run("doctor", place, "--for", "t4", "--tensorrt", "10.3.0", "--driver", "550.54")
        assert told.exit_code == 0, told.output

    def test_unverified_facts_say_so(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a", {**ORIN, "tensorrt": "8.6.2"})
        result = run("doctor", place, "--for", "jetson-agx-orin-jp6.0")
        assert result.exit_code == 0
        assert "tensorrt of this machine" in result.stdout
        assert "the machine has 8.6.2 (unverified)" in result.stdout

    def test_json(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a")
        result = run("doctor", place, "--for", "t4", "--json")
        assert result.exit_code == 3
        found = json.loads(result.stdout)
        assert found["verdict"] == "does not load"
        assert found["machine"]["name"] == "t4"

    def test_unknown_machines_list_the_nearest(self, tmp_path: Path) -> None:
        result = run("doctor", artefact(tmp_path / "a"), "--for", "jetson-orin-jp62")
        assert result.exit_code == 2
        assert "jetson-orin-jp6.2" in result.stderr

    def test_a_changed_engine_is_refused(self, tmp_path: Path) -> None:
        place = artefact(tmp_path / "a")
        (place / "engine.plan").write_bytes(b"another engine")
        result = run("doctor", place, "--for", "jetson-orin-jp6.2")
        assert result.exit_code == 1
        assert "SHA-256 differs" in result.stderr

    def test_an_artefact_that_is_not_compiled(self, tmp_path: Path) -> None:
        result = run("doctor", artefact(tmp_path / "a", None, {}))
        assert result.exit_code == 4
        assert "exporter compile" in result.stderr

    @pytest.mark.parametrize(
        "given", [("--tensorrt", "v10.3"), ("--driver", "new"), ("--tensorrt", "")]
    )
    def test_what_is_no_version_is_wrong_use(self, tmp_path: Path, given: tuple[str, str]) -> None:
        result = run("doctor", artefact(tmp_path / "a"), "--for", "t4", *given)
        assert result.exit_code == 2
        assert "is not a version" in result.stderr

    @pytest.mark.parametrize("option", ["--for", "--tensorrt", "--driver"])
    def test_a_machine_without_an_engine_is_wrong_use(self, option: str) -> None:
        assert run("doctor", option, "1.0").exit_code == 2

    def test_alone_it_is_as_before(self) -> None:
        assert {"cpu", "gpu", "targets"} <= set(json.loads(run("doctor", "--json").stdout))


class TestThisMachine:
    @staticmethod
    def have(monkeypatch: pytest.MonkeyPatch, *devices: Gpu, **versions: str) -> None:
        found = {"tensorrt": None, "tensorrt-rtx": None, **versions}
        monkeypatch.setattr(here, "find_gpus", lambda root: Gpus("test", devices))
        monkeypatch.setattr(here, "installed_versions", lambda: found)

    def test_its_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        gpus = [Gpu("NVIDIA L4", 23034, "8.9", "580.1")] * 2
        self.have(monkeypatch, *gpus, tensorrt="10.13.3.9")
        row = here.this_machine("tensorrt", tmp_path)
        assert (row.gpu, row.compute_capability, row.driver) == ("NVIDIA L4", "8.9", "580.1")
        assert (row.os, row.arch) == (platform.system().lower(), platform.machine())
        assert row.tensorrt == "10.13.3.9"
        assert here.this_machine("tensorrt_rtx", tmp_path).tensorrt is None

    def test_which_of_several_kinds_is_not_guessed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
        self.have(monkeypatch, Gpu("L4", None, "8.9"), Gpu("T4", None, "7.5"), tensorrt="10.13.3")
        result = run("doctor", artefact(tmp_path / "a"))
        assert result.exit_code == 4
        assert "this machine has different GPUs (L4, T4)" in result.stderr

    def test_a_jetson(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.have(monkeypatch, Gpu("Jetson (Jetson Linux 36.4.3)"), tensorrt="10.3.0")
        model = tmp_path / "proc/device-tree/model"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
        row = here.this_machine("tensorrt", tmp_path)
        assert (row.gpu, row.compute_capability, row.dla_cores) == ("Jetson AGX Orin", "8.7", 2)
        assert row.is_jetson

    def test_without_a_gpu_nothing_loads(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.have(monkeypatch)
        result = run("doctor", artefact(tmp_path / "a"))
        assert result.exit_code == 3
        assert "no NVIDIA GPU was found" in result.stderr

    def test_what_the_user_says_of_it_counts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.have(monkeypatch, Gpu("NVIDIA L4", 23034, "8.9", "580.1"))
        here: dict[str, Any] = {
            "os": platform.system().lower(),
            "arch": platform.machine(),
            "compute_capabilities": ["8.9"],
        }
        place = artefact(tmp_path / "a", {**ORIN, **here})
        assert run("doctor", place).exit_code == 4
        assert run("doctor", place, "--tensorrt", "10.3.0").exit_code == 0


COMMAND = """
import json, sys
before = set(sys.modules)
from exporter.cli.main import main
sys.argv = ["exporter", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
json.dump([code, sorted({n.partition(".")[0] for n in set(sys.modules) - before})], sys.stderr)
"""
LIGHT = {"exporter", "calibration", "click", "rich", "markdown_it", "mdurl", "pygments", "numpy"}


@pytest.mark.parametrize("command", ["inspect", "doctor"])
def test_they_load_only_what_a_target_machine_has(tmp_path: Path, command: str) -> None:
    # An allow-list: on a Jetson there is neither TensorFlow nor onnxruntime, and what judges an
    # engine must not load TensorRT, which would already be on the way to running it.
    place = artefact(
        tmp_path / "a", files={"engine.plan": b"", "layers.json": RESIDUAL.read_bytes()}
    )
    args = [command, str(place), *(["--for", "jetson-orin-jp6.2"] if command == "doctor" else [])]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *args], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code, loaded = json.loads(done.stderr.splitlines()[-1])
    assert not code, done.stderr
    ours = {name for name in loaded if not name.startswith(("_cython", "cython_runtime"))}
    assert ours - LIGHT - set(sys.stdlib_module_names) == set()
