"""The doctor: what it reads from recorded machines, and that it only looks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from exporter import diagnosis as doctor
from exporter.cli import console
from exporter.machine import cpus, gpus
from exporter.machine.cpus import parse_cpuinfo
from exporter.machine.gpus import Gpu, Gpus
from exporter.machine.install import pip_line
from exporter.machine.versions import DISTRIBUTIONS, installed_versions
from exporter.targets import TARGETS

ROOT = Path(__file__).parents[2]
NO_GPU = Gpus("none", ())

# Recorded on a virtual machine on an EPYC "Milan"; the second core is the same but for its number.
ZEN_3 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 1
model name	: AMD EPYC
stepping	: 1
cpu MHz		: 2445.424
fpu		: yes
flags		: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx \
fxsr sse sse2 ht syscall nx mmxext fxsr_opt pdpe1gb rdtscp lm constant_tsc rep_good nopl xtopology \
nonstop_tsc cpuid extd_apicid tsc_known_freq pni pclmulqdq ssse3 fma cx16 pcid sse4_1 sse4_2 \
x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand hypervisor lahf_lm cmp_legacy \
cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw topoext vmmcall fsgsbase tsc_adjust bmi1 avx2 \
smep bmi2 erms invpcid rdseed adx smap clflushopt clwb sha_ni xsaveopt xsavec xgetbv1 xsaves \
clzero xsaveerptr arat umip vaes vpclmulqdq rdpid fsrm
bugs		: sysret_ss_attrs null_seg spectre_v1 spectre_v2 spec_store_bypass srso
bogomips	: 4890.84
address sizes	: 48 bits physical, 48 bits virtual
power management:

processor	: 1
model name	: AMD EPYC
flags		: fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 bmi2 vaes vpclmulqdq
"""
# Not a recording: the processor's flags as Linux orders them, without most of the older ones.
ZEN_5 = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 26
model		: 2
model name	: AMD EPYC 9755 128-Core Processor
flags		: fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand \
bmi1 avx2 smep bmi2 erms invpcid avx512f avx512dq rdseed adx smap avx512ifma clflushopt clwb \
avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 xsaves avx_vnni avx512_bf16 clzero \
xsaveerptr wbnoinvd arat avx512vbmi umip pku ospke avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni \
avx512_bitalg avx512_vpopcntdq rdpid movdiri movdir64b fsrm avx512_vp2intersect flush_l1d
"""
# Not a recording: in the form of a Jetson AGX Orin, where no line names the processor.
ORIN = """\
processor	: 0
model name	: ARMv8 Processor rev 1 (v8l)
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp uscat ilrcpc flagm paca pacg
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1
"""


class TestCpuinfo:
    def test_zen_3_has_no_vnni(self) -> None:
        info = parse_cpuinfo(ZEN_3)
        assert info.model == "AMD EPYC"
        assert info.instruction_sets == {
            "avx2": True,
            "fma": True,
            "avx512f": False,
            "avx512_vnni": False,
            "avx_vnni": False,
            "avx512_bf16": False,
            "amx_int8": False,
            "amx_bf16": False,
        }
        assert (
            "no VNNI: INT8 on the CPU needs 7-bit weights (reduce_range) and gains less"
            in info.consequences
        )
        assert any(line.startswith("no AVX-512") for line in info.consequences)
        assert any(line.startswith("AVX2") for line in info.consequences)

    def test_zen_5_has_vnni_twice_and_bfloat16_but_no_amx(self) -> None:
        info = parse_cpuinfo(ZEN_5)
        assert info.model == "AMD EPYC 9755 128-Core Processor"
        assert info.instruction_sets is not None
        assert {name for name, here in info.instruction_sets.items() if here} == {
            "avx2",
            "fma",
            "avx512f",
            "avx512_vnni",
            "avx_vnni",
            "avx512_bf16",
        }
        assert [line for line in info.consequences if line.startswith("no ")] == [
            "no AMX: INT8 runs on vector instructions"
        ]

    @pytest.mark.parametrize("only", ["avx_vnni", "avx512_vnni"])
    def test_either_vnni_is_vnni(self, only: str) -> None:
        info = parse_cpuinfo(f"model name : x\nflags : avx2 fma {only}\n")
        assert any(line.startswith("VNNI") for line in info.consequences)

    def test_names_that_only_begin_alike_do_not_count(self) -> None:
        info = parse_cpuinfo("flags : avx2x avx512_vnni2 avx\n")
        assert info.instruction_sets is not None
        assert not any(info.instruction_sets.values())

    def test_orin(self) -> None:
        info = parse_cpuinfo(ORIN)
        assert info.model == "Cortex-A78AE"
        assert info.instruction_sets == {"asimddp": True, "i8mm": False, "bf16": False}
        assert info.consequences[0] == "dot products: INT8 on the CPU pays"
        assert len(info.consequences) == 3

    def test_unknown_arm_core_is_given_by_its_numbers(self) -> None:
        assert parse_cpuinfo(ORIN.replace("0xd42", "0xfff")).model == "ARM core 0x41/0xfff"

    def test_arm_without_core_numbers_has_its_model_name(self) -> None:
        text = "model name : ARMv8 Processor rev 1 (v8l)\nFeatures : fp asimd\n"
        assert parse_cpuinfo(text).model == "ARMv8 Processor rev 1 (v8l)"

    def test_an_instruction_set_counts_when_every_core_has_it(self) -> None:
        info = parse_cpuinfo(ORIN + "\n" + ORIN.replace("asimddp ", "").replace("0xd42", "0xd08"))
        assert info.model == "Cortex-A78AE + Cortex-A72"
        assert info.instruction_sets == {"asimddp": False, "i8mm": False, "bf16": False}

    @pytest.mark.parametrize("text", ["", "hart : 0\nisa : rv64imafdc\n"])
    def test_what_it_does_not_know_is_unknown(self, text: str) -> None:
        assert parse_cpuinfo(text) == cpus.CpuInfo("unknown", None, ())

    @pytest.mark.parametrize("family", cpus.INSTRUCTION_SETS)
    def test_every_instruction_set_has_a_consequence(self, family: str) -> None:
        named = [name for row in cpus._CAPABILITIES[family] for name in row.any_of]
        assert sorted(named) == sorted(cpus.INSTRUCTION_SETS[family])


class TestGpus:
    @pytest.fixture(autouse=True)
    def no_tools(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Neither nvidia-ml-py nor nvidia-smi, whatever this machine has."""
        monkeypatch.setitem(sys.modules, "pynvml", None)
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    @staticmethod
    def smi(tmp_path: Path, output: str, status: int = 0) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def test_none(self, tmp_path: Path) -> None:
        assert gpus.find_gpus(tmp_path) == NO_GPU

    def test_nvidia_smi(self, tmp_path: Path) -> None:
        self.smi(tmp_path, "NVIDIA H100 80GB HBM3, 81559, 9.0, 550.54.15")
        assert gpus.find_gpus(tmp_path) == Gpus(
            "nvidia-smi", (Gpu("NVIDIA H100 80GB HBM3", 81559, "9.0", "550.54.15"),)
        )

    def test_nvidia_smi_that_fails_is_passed_over(self, tmp_path: Path) -> None:
        self.smi(tmp_path, "NVIDIA-SMI has failed, because, it could not, talk to the driver", 9)
        assert gpus.find_gpus(tmp_path) == NO_GPU

    def test_text_of_nvidia_smi(self) -> None:
        text = (
            "NVIDIA L4, 23034, 8.9, 535.183.01\n"
            "Orin (nvgpu), [N/A], [N/A], [N/A]\n"
            "a line of something else\n"
        )
        assert gpus.parse_nvidia_smi(text) == (
            Gpu("NVIDIA L4", 23034, "8.9", "535.183.01"),
            Gpu("Orin (nvgpu)", None, None, None),
        )

    def test_device_nodes(self, tmp_path: Path) -> None:
        (tmp_path / "dev").mkdir()
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
            (tmp_path / "dev" / name).touch()
        found = gpus.find_gpus(tmp_path)
        assert found.found_by == "/dev"
        assert [gpu.name for gpu in found.devices] == [
            "NVIDIA GPU (/dev/nvidia0)",
            "NVIDIA GPU (/dev/nvidia1)",
        ]

    def test_jetson(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "nv_tegra_release").write_text(
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
        )
        found = gpus.find_gpus(tmp_path)
        assert found.found_by == "/etc/nv_tegra_release"
        assert found.devices == (Gpu("Jetson (Jetson Linux 36.4.3)"),)

    def test_jetson_release_of_unknown_form(self) -> None:
        assert gpus.parse_tegra_release("something") == "Jetson"

    @staticmethod
    def fake_nvml(**changes: Any) -> SimpleNamespace:
        class NVMLError(Exception):
            pass

        def no_memory(handle: Any) -> Any:
            raise NVMLError("Not Supported")

        values: dict[str, Any] = {
            "NVMLError": NVMLError,
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: b"NVIDIA A100",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=40 * 2**30),
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 0),
            "nvmlSystemGetDriverVersion": lambda: "570.1",
        }
        if changes.pop("no_memory", False):
            values["nvmlDeviceGetMemoryInfo"] = no_memory
        return SimpleNamespace(**{**values, **changes})

    def test_nvml_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.smi(tmp_path, "another, 1, 9.0, 1")
        monkeypatch.setitem(sys.modules, "pynvml", self.fake_nvml())  # type: ignore[arg-type]
        assert gpus.find_gpus(tmp_path) == Gpus(
            "nvidia-ml-py", (Gpu("NVIDIA A100", 40 * 1024, "8.0", "570.1"),)
        )

    def test_nvml_on_memory_shared_with_the_cpu(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", self.fake_nvml(no_memory=True))  # type: ignore[arg-type]
        assert gpus.find_gpus(tmp_path).devices[0].memory_mib is None

    def test_nvml_without_a_driver_gives_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_driver() -> None:
            raise RuntimeError("Driver Not Loaded")

        monkeypatch.setitem(sys.modules, "pynvml", self.fake_nvml(nvmlInit=no_driver))  # type: ignore[arg-type]
        self.smi(tmp_path, "NVIDIA L4, 23034, 8.9, 535.183.01")
        assert gpus.find_gpus(tmp_path).found_by == "nvidia-smi"


class TestTargets:
    ALL: ClassVar = dict.fromkeys(DISTRIBUTIONS, "1.0")

    def test_first_form_knows_onnx_and_ort(self) -> None:
        assert list(TARGETS)[:2] == ["onnx", "ort"]

    def test_usable_when_all_is_here(self) -> None:
        for row in TARGETS.values():
            status = doctor.target_status(row, self.ALL, Gpus("nvidia-smi", (Gpu("L4"),)))
            assert status.exports == doctor.Ability(True)
            finishes = row.name.startswith(("trt", "ort-"))
            can_finish = doctor.Ability(True) if finishes else None
            assert status.compiles == can_finish

    def test_one_of_several_distributions_is_enough(self) -> None:
        versions = {**self.ALL, "tensorflow": None, "onnxruntime-gpu": None}
        assert doctor.target_status(TARGETS["ort"], versions, NO_GPU).exports.usable

    def test_what_lacks_is_named_with_the_line_that_installs_it(self) -> None:
        versions = {**self.ALL, "onnxruntime": None, "onnxruntime-gpu": None, "tf2onnx": None}
        status = doctor.target_status(TARGETS["ort"], versions, NO_GPU).exports
        assert not status.usable
        assert status.why_not == "not installed: tf2onnx, onnxruntime or onnxruntime-gpu"
        assert status.install == pip_line("cpu")

    def test_no_graph_is_accepted_without_a_runtime_to_compare_it_in(self) -> None:
        versions = {**self.ALL, "onnxruntime": None, "onnxruntime-gpu": None}
        assert not doctor.target_status(TARGETS["onnx"], versions, NO_GPU).exports.usable

    def test_a_jetson_compiles_and_does_not_export(self) -> None:
        here = {"exporter", "onnx", "cuda-python", "tensorrt", "numpy"}
        versions = {name: "1.0" if name in here else None for name in DISTRIBUTIONS}
        status = doctor.target_status(TARGETS["trt"], versions, Gpus("/dev", (Gpu("Orin"),)))
        assert not status.exports.usable
        assert status.compiles == doctor.Ability(True)

    def test_a_machine_that_exports_and_cannot_compile(self) -> None:
        status = doctor.target_status(TARGETS["trt"], self.ALL, NO_GPU)
        assert status.exports.usable
        assert status.compiles == doctor.Ability(False, "no NVIDIA GPU on this machine")
        versions = {**self.ALL, "tensorrt": None}
        compiles = doctor.target_status(TARGETS["trt"], versions, NO_GPU).compiles
        assert compiles is not None
        assert compiles.why_not == "not installed: tensorrt; no NVIDIA GPU on this machine"
        assert pip_line("target") in str(compiles.install)

    def test_the_table_shows_both_halves_and_the_extras_by_name(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        nothing: dict[str, str | None] = dict.fromkeys(DISTRIBUTIONS)
        rows = tuple(doctor.target_status(TARGETS[n], nothing, NO_GPU) for n in ("ort", "trt"))
        console.show_diagnosis(dataclasses.replace(doctor.diagnose(), targets=rows))
        shown = capsys.readouterr().out
        assert [line.split()[1:4:2] for line in shown.splitlines() if "pip install" in line] == [
            ["ort", "export"],
            ["trt", "export"],
            ["trt", "compile"],
        ]
        assert "[target]'" in shown

    def test_rows_only_name_distributions_that_are_looked_up(self) -> None:
        for row in TARGETS.values():
            groups = (*row.distributions, *row.finish_distributions)
            assert {name for group in groups for name in group} <= set(DISTRIBUTIONS)


class TestDiagnose:
    def test_tells_of_this_machine(self) -> None:
        found = doctor.diagnose()
        assert found.python == platform.python_version()
        assert found.architecture == platform.machine()
        assert platform.system() in found.system
        assert found.versions["numpy"] == importlib.metadata.version("numpy")
        assert set(found.versions) == set(DISTRIBUTIONS)
        assert [status.target for status in found.targets] == list(TARGETS)

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity here")
    def test_counts_the_cores_that_it_may_use(self) -> None:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            assert doctor.diagnose().cpu.usable_cores == 1
        finally:
            os.sched_setaffinity(0, allowed)
        assert doctor.diagnose().cpu.usable_cores == len(allowed)

    def test_is_json(self) -> None:
        found = doctor.diagnose()
        values = json.loads(json.dumps(found.as_json()))
        assert set(values) == set(doctor.Diagnosis.__dataclass_fields__)
        assert values["targets"][0]["target"] == "onnx"
        assert values["gpu"]["found_by"] == found.gpu.found_by

    def test_without_cpuinfo_the_instruction_sets_are_unknown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_such_file(*_: Any, **__: Any) -> str:
            raise FileNotFoundError("/proc/cpuinfo")

        monkeypatch.setattr(Path, "read_text", no_such_file)
        cpu = cpus.this_cpu()
        assert cpu.instruction_sets is None
        assert cpu.usable_cores >= 1
        found = doctor.Diagnosis("3.11", "Darwin", "arm64", {}, cpu, NO_GPU, ())
        assert found.as_json()["cpu"]["instruction_sets"] == "unknown"

    def test_a_distribution_that_is_not_installed_has_no_version(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("numpy", "no-such-distribution")
        monkeypatch.setattr("exporter.machine.versions.DISTRIBUTIONS", names)
        versions = installed_versions()
        assert versions["no-such-distribution"] is None
        assert versions["numpy"] is not None

    def test_imports_nothing_heavy(self) -> None:
        script = (
            "import sys; from exporter import diagnosis as doctor; doctor.diagnose().as_json()\n"
            "heavy = ('keras', 'tensorflow', 'tf2onnx', 'onnx', 'onnx_ir', 'onnxruntime',\n"
            "         'tensorrt', 'tensorrt_rtx', 'openvino', 'cuda', 'numpy')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"
