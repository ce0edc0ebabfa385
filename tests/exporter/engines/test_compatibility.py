"""Where an engine loads: every rule from both sides, and what is not known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exporter.engines.compatibility import Fit, judge, require_precision
from exporter.engines.machines import MACHINES, Machine, lookup
from exporter.engines.record import EngineRecord, parse
from exporter.engines.rules import RULES
from exporter.errors import GateRefused, Missing
from tests.exporter.engine_files import ORIN

ENGINE = parse(ORIN, Path("here"))
HERE = MACHINES["jetson-agx-orin-jp6.2"]
A10 = replace(
    ENGINE, compute_capabilities=("8.6",), arch="x86_64", tensorrt="10.13.3", gpu="NVIDIA A10"
)
SERVER = lookup("a10", tensorrt="10.13.3", driver="580.65.06")
RTX = replace(A10, flavour="tensorrt_rtx", tensorrt="1.7.1.116", cuda=None)
RTX_DEFAULT = replace(
    RTX, compute_capabilities=("8.0", "8.6", "8.9", "12.0"), hardware_compatibility="ampere+"
)
PC = lookup("rtx-3060", tensorrt="1.7.1.116", driver="580.1")


def outcomes(engine: EngineRecord, machine: Machine, precision: str = "int8") -> dict[str, str]:
    return {row.rule: row.outcome for row in judge(engine, precision, machine).findings}


def test_where_it_was_built_it_loads() -> None:
    for engine, machine in ((ENGINE, HERE), (A10, SERVER), (RTX, PC)):
        fit = judge(engine, "int8", machine)
        assert fit.verdict == "loads", fit.findings
        fit.require_loads()


# Rule, engine, machine, its outcome; None where the rule must keep silent.
CASES: list[tuple[str, EngineRecord, Machine, str | None]] = [
    ("platform", ENGINE, HERE, "holds"),
    ("platform", ENGINE, SERVER, "fails"),
    ("platform", replace(A10, os="windows"), SERVER, "fails"),
    ("platform", replace(RTX, os="windows"), PC, "holds"),
    ("platform", RTX, HERE, "fails"),
    ("gpu", ENGINE, HERE, None),
    ("gpu", A10, replace(SERVER, gpu=None, compute_capability=None), "fails"),
    ("TensorRT version", ENGINE, HERE, "holds"),
    ("TensorRT version", replace(ENGINE, tensorrt="10.3.0.30"), HERE, "holds"),
    ("TensorRT version", replace(ENGINE, tensorrt="10.3.1"), HERE, "fails"),
    ("TensorRT version", ENGINE, replace(HERE, tensorrt="10.3"), "unknown"),
    ("TensorRT version", ENGINE, replace(HERE, tensorrt="10.4"), "fails"),
    ("TensorRT version", A10, lookup("a10"), "unknown"),
    ("TensorRT version", A10, lookup("a10", tensorrt="10.13.3.9"), "holds"),
    ("TensorRT version", replace(ENGINE, version_compatible=True), HERE, None),
    ("TensorRT version", RTX, PC, None),
    ("TensorRT-RTX version", RTX, PC, "holds"),
    ("TensorRT-RTX version", RTX, replace(PC, tensorrt="1.8.0"), "fails"),
    ("TensorRT-RTX version", replace(RTX, version_compatible=True),
     replace(PC, tensorrt="1.8.0"), "fails"),
    ("TensorRT-RTX version", A10, SERVER, None),
    ("compute capability", ENGINE, HERE, "holds"),
    ("compute capability", A10, lookup("l4"), "fails"),
    ("compute capability", A10, lookup("rtx-3090"), "holds"),
    ("compute capability", A10, replace(SERVER, compute_capability=None), "unknown"),
    ("compute capability", replace(A10, hardware_compatibility="ampere+"), SERVER, None),
    ("same compute capability",
     replace(A10, hardware_compatibility="same_compute_capability"), lookup("rtx-3090"), "holds"),
    ("same compute capability",
     replace(A10, hardware_compatibility="same_compute_capability"), lookup("l4"), "fails"),
    ("same compute capability", A10, SERVER, None),
    ("Ampere and newer", replace(A10, hardware_compatibility="ampere+"), lookup("h100"), "holds"),
    ("Ampere and newer", replace(A10, hardware_compatibility="ampere+"), lookup("a100"), "holds"),
    ("Ampere and newer", replace(A10, hardware_compatibility="ampere+"), lookup("t4"), "fails"),
    ("Ampere and newer", replace(A10, hardware_compatibility="ampere+"),
     replace(SERVER, compute_capability=None), "unknown"),
    ("Ampere and newer", A10, SERVER, None),
    ("Ampere and newer, Jetson", replace(ENGINE, hardware_compatibility="ampere+"), HERE, "fails"),
    ("Ampere and newer, Jetson", replace(A10, hardware_compatibility="ampere+"), SERVER, None),
    ("TensorRT-RTX compute capability", RTX, PC, "holds"),
    ("TensorRT-RTX compute capability", RTX, lookup("rtx-4090"), "fails"),
    ("TensorRT-RTX compute capability",
     replace(RTX, compute_capabilities=("8.6", "8.9")), lookup("rtx-4090"), "holds"),
    ("TensorRT-RTX compute capability", A10, SERVER, None),
    ("INT8", ENGINE, HERE, "holds"),
    ("INT8", ENGINE, MACHINES["jetson-nano-jp4.6.1"], "fails"),
    ("INT8", ENGINE, MACHINES["jetson-tx2-jp4.6.1"], "fails"),
    ("DLA", replace(ENGINE, dla_core=1), HERE, "holds"),
    ("DLA", replace(ENGINE, dla_core=2), HERE, "fails"),
    ("DLA", replace(ENGINE, dla_core=0), MACHINES["jetson-orin-nano-jp6.2"], "fails"),
    ("DLA", replace(ENGINE, dla_core=0), MACHINES["jetson-orin-jp6.2"], "unknown"),
    ("DLA", replace(ENGINE, dla_core=0), MACHINES["jetson-thor-jp7.1"], "fails"),
    ("DLA", ENGINE, SERVER, None),
    ("DLA, TensorRT version", replace(ENGINE, dla_core=0), HERE, "holds"),
    ("DLA, TensorRT version", replace(ENGINE, dla_core=0),
     MACHINES["jetson-agx-orin-jp7.2"], "fails"),
    ("DLA, TensorRT version", replace(ENGINE, dla_core=0),
     MACHINES["jetson-agx-orin-jp7.2.2"], "holds"),
    ("DLA, TensorRT version", replace(ENGINE, dla_core=0),
     replace(HERE, tensorrt="11.4.0"), "fails"),
    ("DLA, TensorRT version", replace(ENGINE, dla_core=0), replace(HERE, tensorrt="10.7"), "holds"),
    ("DLA, TensorRT version", ENGINE, HERE, None),
    ("version compatibility", ENGINE, HERE, None),
    ("TensorRT 11 on Jetson", replace(ENGINE, tensorrt="11.4.1"), HERE, "fails"),
    ("TensorRT 11 on Jetson", replace(ENGINE, tensorrt="11.4.1"),
     MACHINES["jetson-agx-orin-jp7.2.2"], "holds"),
    ("TensorRT 11 on Jetson", replace(ENGINE, tensorrt="11.4.1"),
     replace(HERE, jetpack=None), "unknown"),
    ("TensorRT 11 on Jetson", replace(ENGINE, tensorrt="11.4.1"),
     replace(HERE, jetpack=None, tensorrt="11.4.1"), None),
    ("TensorRT 11 on Jetson", ENGINE, HERE, None),
    ("TensorRT 11 on Jetson", replace(A10, tensorrt="11.4.1"), SERVER, None),
    ("TensorRT-RTX default", RTX_DEFAULT, PC, "holds"),
    ("TensorRT-RTX default", RTX_DEFAULT, lookup("dgx-spark"), "holds"),
    ("TensorRT-RTX default", RTX_DEFAULT, lookup("t4"), "fails"),
    ("TensorRT-RTX default", RTX_DEFAULT, lookup("h100"), "fails"),
    ("TensorRT-RTX default", RTX_DEFAULT, replace(PC, compute_capability=None), "unknown"),
    ("TensorRT-RTX default", RTX, PC, None),
    ("TensorRT-RTX compute capability", RTX_DEFAULT, PC, None),
    ("driver", A10, SERVER, "holds"),
    ("driver", A10, replace(SERVER, driver="525.60.13"), "holds"),
    ("driver", A10, replace(SERVER, driver="520.61.05"), "fails"),
    ("driver", replace(A10, cuda="13.0"), replace(SERVER, driver="575.1"), "fails"),
    ("driver", replace(A10, cuda="13.0"), SERVER, "holds"),
    ("driver", replace(A10, cuda="11.8"), replace(SERVER, driver="450.80.02"), "holds"),
    ("driver", replace(A10, cuda="14.0"), SERVER, "unknown"),
    ("driver", A10, replace(SERVER, driver=None), "unknown"),
    ("driver", replace(A10, cuda=None), SERVER, None),
    ("driver", ENGINE, HERE, None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "engine", "machine", "outcome"), CASES)
def test_rules(rule: str, engine: EngineRecord, machine: Machine, outcome: str | None) -> None:
    assert outcomes(engine, machine).get(rule) == outcome


@pytest.mark.parametrize(
    ("machine", "outcome"),
    [
        ("rtx-4090", "holds"),
        ("h100", "holds"),
        ("jetson-thor-jp7.1", "holds"),
        ("rtx-3060", "fails"),
        ("jetson-orin-jp6.2", "fails"),
        ("t4", "fails"),
    ],
)
def test_fp8(machine: str, outcome: str) -> None:
    there = lookup(machine)
    assert outcomes(A10, there, "fp8")["FP8"] == outcome
    assert "FP8" not in outcomes(A10, there, "int8")
    assert "FP8" not in outcomes(A10, replace(there, compute_capability=None), "fp8")
    if outcome == "holds":
        require_precision("fp8", there)
    else:
        with pytest.raises(GateRefused, match="has no FP8"):
            require_precision("fp8", there)
    require_precision("int8", there)


@pytest.mark.parametrize(
    ("built", "there", "outcome"),
    [
        ("10.3.0", "10.3.0", "holds"),
        ("10.3.0", "10.13.3", "holds"),
        ("10.13.3", "10.3.0", "fails"),
        ("10.13.3", "10.13", "unknown"),
        ("10.3.0", "11.4.1", "holds"),
        ("8.6.1", "10.3.0", "holds"),
        ("8.6.1", "11.4.1", "fails"),
        ("8.5.2", "10.3.0", "fails"),
        ("8.5.2", "8.6.1", "fails"),
        ("11.4.1", "10.13.3", "fails"),
    ],
)
def test_version_compatible_engines(built: str, there: str, outcome: str) -> None:
    engine = replace(A10, version_compatible=True, tensorrt=built)
    found = outcomes(engine, replace(SERVER, tensorrt=there))
    assert found["version compatibility"] == outcome
    assert "TensorRT version" not in found


def test_a_version_compatible_engine_where_the_version_is_not_told() -> None:
    engine = replace(A10, version_compatible=True)
    assert outcomes(engine, lookup("a10"))["version compatibility"] == "unknown"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_int8_is_asked_only_of_int8_engines(precision: str) -> None:
    assert "INT8" not in outcomes(ENGINE, MACHINES["jetson-nano-jp4.6.1"], precision)


def test_every_rule_is_tested_and_cited() -> None:
    both = {rule: {case[3] for case in CASES if case[0] == rule} for rule in outcomes_of_cases()}
    both["FP8"] = {"holds", "fails"}  # test_fp8
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
    assert set(names) == set(both)
    for name in set(names) - {"gpu", "version compatibility", "Ampere and newer, Jetson"}:
        assert {"holds", "fails"} <= both[name], name
    assert all(rule.quote and rule.source for rule in RULES)


def outcomes_of_cases() -> list[str]:
    return [case[0] for case in CASES]


def test_one_no_outweighs_what_is_not_known() -> None:
    fit = judge(A10, "int8", lookup("l4"))
    assert {"fails", "unknown"} <= {row.outcome for row in fit.findings}
    assert fit.verdict == "does not load"
    with pytest.raises(GateRefused, match=r"compute capability 8\.6, L4 has 8\.9") as caught:
        fit.require_loads()
    assert caught.value.exit_code == 3
    assert "driver" not in str(caught.value)


def test_what_is_not_known_is_no_yes() -> None:
    fit = judge(A10, "int8", lookup("a10"))
    assert fit.verdict == "unknown"
    with pytest.raises(Missing, match=r"must be 10\.13\.3") as caught:
        fit.require_loads()
    assert caught.value.exit_code == 4
    assert "--driver" in str(caught.value)


def test_another_model_of_the_same_capability_is_told() -> None:
    def detail(fit: Fit) -> str:
        return next(row.detail for row in fit.findings if row.rule == "compute capability")

    other = lookup("rtx-3090", tensorrt="10.13.3", driver="580")
    assert "tuned on NVIDIA A10" in detail(judge(A10, "int8", other))
    assert "tuned on" not in detail(judge(A10, "int8", SERVER))


def test_is_json() -> None:
    values: dict[str, Any] = json.loads(json.dumps(judge(ENGINE, "int8", HERE).as_json()))
    assert set(values) == {"verdict", "machine", "engine", "rules"}
    assert values["verdict"] == "loads"
    assert values["engine"] == ORIN
    assert set(values["rules"][0]) == {
        "rule", "outcome", "detail", "quote", "source", "verified",
    }  # fmt: skip
