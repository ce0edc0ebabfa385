"""The table of machines: known rows, what is unverified, and misspelt names."""

from __future__ import annotations

import pytest

from exporter.engines.machines import MACHINES, jetson_module, lookup
from exporter.errors import WrongUse
from exporter.machine.capabilities import check_capabilities, has_precision


@pytest.mark.parametrize(
    ("name", "capability", "tensorrt", "dla_cores"),
    [
        ("jetson-orin-jp6.2", "8.7", "10.3.0", None),
        ("jetson-agx-orin-jp6.1", "8.7", "10.3.0", 2),
        ("jetson-agx-xavier-jp5.1.2", "7.2", "8.5.2", 2),
        ("jetson-thor-jp7.1", "11.0", "10.13.3", 0),
        ("jetson-agx-orin-jp7.2.2", "8.7", "11.4.1", 2),
        ("t4", "7.5", None, 0),
        ("l4", "8.9", None, 0),
        ("a10", "8.6", None, 0),
        ("a100", "8.0", None, 0),
        ("h100", "9.0", None, 0),
        ("b200", "10.0", None, 0),
        ("rtx-5090", "12.0", None, 0),
        ("dgx-spark", "12.1", None, 0),
    ],
)
def test_rows(name: str, capability: str, tensorrt: str | None, dla_cores: int | None) -> None:
    row = MACHINES[name]
    assert (row.compute_capability, row.tensorrt, row.dla_cores) == (
        capability,
        tensorrt,
        dla_cores,
    )


def test_which_machines_have_fp8() -> None:
    """Ada, Hopper, Blackwell and Thor have; Orin, Ampere, Turing and older don't."""
    have = ("l4", "l40s", "rtx-4090", "h100", "h200", "gh200", "b200", "b300", "gb200")
    have += ("rtx-5090", "dgx-spark", "jetson-thor-jp7.1", "jetson-thor-jp7.2.2")
    lack = ("t4", "v100", "rtx-2080-ti", "a100", "a30", "a10", "a2", "rtx-3060")
    lack += ("jetson-orin-jp6.2", "jetson-agx-orin-jp7.2.2", "jetson-agx-xavier-jp5.1.2")
    found = {
        name: has_precision(str(MACHINES[name].compute_capability), "fp8") for name in MACHINES
    }
    assert all(found[name] for name in have)
    assert not any(found[name] for name in lack)
    jetpacks = {name.rsplit("-jp", 1)[1] for name in MACHINES if "-jp" in name and found[name]}
    assert jetpacks == {"7.1", "7.2", "7.2.2"}
    assert all(has_precision(str(row.compute_capability), "int8") for row in MACHINES.values())


def test_gpus_without_fp8_are_refused_by_name() -> None:
    check_capabilities(("8.9", "12.0", "9.0", "11.0"), "fp8")
    check_capabilities(("7.5",), "int8")
    with pytest.raises(WrongUse, match=r"7\.5, 8\.6 and --precision fp8 contradict") as caught:
        check_capabilities(("7.5", "8.9", "8.6"), "fp8")
    assert "8.9 or later" in str(caught.value.hint)


def test_every_row_has_a_source_and_jetsons_are_arm() -> None:
    for name, row in MACHINES.items():
        assert row.name == name
        assert row.sources
        assert set(row.unverified) <= set(row.__dataclass_fields__)
        assert row.is_jetson == name.startswith("jetson") == (row.jetpack is not None)
        assert row.arch == "aarch64" or not row.is_jetson


def test_thor_and_xavier_have_no_orin_releases() -> None:
    assert "jetson-thor-jp6.2" not in MACHINES
    assert "jetson-agx-xavier-jp6.0" not in MACHINES


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(WrongUse, match="unknown machine") as caught:
        lookup("jetson-orin-jp6.3")
    assert "jetson-orin-jp6.2" in str(caught.value)


def test_what_the_user_says_replaces_the_table() -> None:
    assert "tensorrt" in MACHINES["jetson-orin-jp6.0"].unverified
    row = lookup("jetson-orin-jp6.0", tensorrt="8.6.2.3", driver="540")
    assert (row.tensorrt, row.driver) == ("8.6.2.3", "540")
    assert "tensorrt" not in row.unverified


@pytest.mark.parametrize(
    ("board", "expected"),
    [
        ("NVIDIA Jetson AGX Orin Developer Kit", ("Jetson AGX Orin", "8.7", 2)),
        (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            ("Jetson Orin Nano", "8.7", 0),
        ),
        ("NVIDIA Jetson Nano Developer Kit", ("Jetson Nano", "5.3", 0)),
        ("NVIDIA Jetson Xavier NX Developer Kit", ("Jetson Xavier NX", "7.2", 2)),
        ("NVIDIA Jetson of a later kind", None),
        ("NVIDIA Orin NX Developer Kit", ("Jetson Orin NX", "8.7", None)),
        ("Orin (nvgpu)", ("Jetson Orin", "8.7", None)),
        ("NVIDIA RTX Nano", None),
        ("Raspberry Pi 5 Model B", None),
        ("", None),
    ],
)
def test_boards(board: str, expected: object) -> None:
    assert jetson_module(board) == expected
