"""The fusion audit, on two real engines and on the smallest records of what it must tell apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter.cli.engine import show_audit
from exporter.engines.audit import FLOAT_CONVOLUTION, FLOAT_RESULT, MISSING, NOT_TOLD, Audit, audit
from exporter.engines.layers import Layer, Tensor, read_layers, read_times
from exporter.errors import ExporterError

RECORDS = Path(__file__).parents[2] / "data" / "trt-records"
PLAIN, RESIDUAL = "mobilenet.qat", "mobilenet_v2_residuals.qat"
# MobileNetV2 (Sandler et al. 2018, table 2): seventeen blocks, ten of them with a shortcut.
ADDS = 10


def recorded(name: str) -> Audit:
    return audit(
        read_layers(RECORDS / f"{name}.layers.json"), read_times(RECORDS / f"{name}.profile.json")
    )


class TestRealEngines:
    @pytest.mark.parametrize("name", [PLAIN, RESIDUAL])
    def test_every_convolution_of_both_is_int8(self, name: str) -> None:
        # 52 convolutions and a dense layer, which TensorRT runs as a 1x1 convolution.
        assert recorded(name).precisions() == {"INT8": 53}

    def test_without_shortcut_qdq_every_add_left_int8_for_that_reason(self) -> None:
        found = recorded(PLAIN)
        assert len(found.adds) == ADDS
        assert {row.reason for row in found.adds} == {MISSING}
        assert all(row.fused and row.left_int8 for row in found.adds)
        # The graph's own names: which block, which tensor, who made it.
        first = found.adds[0]
        assert first.node == "Add_144"
        (shortcut,) = first.without_qdq
        assert (shortcut.tensor, shortcut.precision) == ("410", "FP16")
        assert shortcut.made_by == "features.2.conv.2.weight + QuantizeLinear_90 + Conv_94"
        assert [row.without_qdq[0].tensor for row in found.adds] == [
            "410", "507", "556", "653", "702", "751", "848", "897", "994", "1043",
        ]  # fmt: skip
        assert Counter(row.output for row in found.adds) == {"FP16": 8, "FP32": 2}

    def test_with_shortcut_qdq_no_add_left_int8(self) -> None:
        found = recorded(RESIDUAL)
        assert len(found.adds) == ADDS
        assert not any(row.left_int8 or row.without_qdq for row in found.adds)

    def test_the_verdict_tells_them_apart(self) -> None:
        assert recorded(RESIDUAL).objections() == []
        objections = recorded(PLAIN).objections()
        assert len(objections) == ADDS
        assert objections[0] == (
            "Add_144 left INT8: 410 (FP16), made by "
            "features.2.conv.2.weight + QuantizeLinear_90 + Conv_94, has no Q/DQ"
        )

    def test_reformats_and_what_they_cost(self) -> None:
        plain, residual = recorded(PLAIN), recorded(RESIDUAL)
        assert (len(plain.reformats), len(residual.reformats)) == (18, 3)
        for found in (plain, residual):
            (own,) = [row.layer for row in found.reformats if not row.asked]
            assert own.startswith("Reformatting CopyNode for Input Tensor 0 to GlobalAveragePool")

    @pytest.mark.parametrize("name", [PLAIN, RESIDUAL])
    def test_times_are_the_profiles(self, name: str) -> None:
        found = recorded(name)
        rows = json.loads((RECORDS / f"{name}.profile.json").read_text())[1:]
        assert sum(time_ms for *_, time_ms in found.times) == pytest.approx(
            sum(row["averageMs"] for row in rows), rel=1e-12
        )
        slowest = max(rows, key=lambda row: row["averageMs"])
        assert found.times[0][0] == slowest["name"]

    def test_depthwise_convolutions_keep_their_groups(self) -> None:
        groups = [row.groups for row in recorded(PLAIN).convolutions if (row.groups or 1) > 1]
        assert len(groups) == 17
        assert groups[:3] == [32, 96, 144]

    def test_is_json(self) -> None:
        values = json.loads(json.dumps(recorded(PLAIN).as_json()))
        assert set(values) == {
            "layers", "convolutions", "adds", "reformats", "split", "opaque", "hidden", "times",
            "precisions", "int8",
        }  # fmt: skip
        assert values["int8"]["ok"] is False
        assert len(values["int8"]["objections"]) == ADDS
        assert values["adds"][0]["without_qdq"] == [
            {
                "tensor": "410",
                "precision": "FP16",
                "made_by": "features.2.conv.2.weight + QuantizeLinear_90 + Conv_94",
            }
        ]
        assert set(values["times"][0]) == {"layer", "kind", "time_ms"}


def tensor(name: str, precision: str, shape: tuple[int, ...] = (1, 64, 8, 8)) -> Tensor:
    return Tensor(name, shape, precision, precision)


def conv(name: str, inputs: list[Tensor], output: Tensor, **more: Any) -> Layer:
    fields = {"weights": "INT8", "groups": 1, "nodes": tuple(name.split(" + ")), **more}
    return Layer(name, "CaskConvolution", tuple(inputs), (output,), **fields)


def reformat(name: str, source: Tensor, result: Tensor, origin: str = "REFORMAT") -> Layer:
    return Layer(name, "Reformat", (source,), (result,), origin=origin, parameters="Reformat")


def only_add(*layers: Layer) -> Any:
    (add,) = audit(layers).adds
    return add


class TestAdds:
    def test_two_summands_of_one_shape_in_int8(self) -> None:
        # As in ResNet, where the convolution's own input has the shortcut's shape too.
        add = only_add(conv("Conv_1 + Add_2", [tensor("a", "INT8"), tensor("b", "INT8")],
                            tensor("c", "INT8")))  # fmt: skip
        assert (add.left_int8, add.reason, add.without_qdq) == (False, "", ())

    @pytest.mark.parametrize("swap", [False, True])
    def test_the_shortcut_is_told_by_type_not_by_place(self, swap: bool) -> None:
        inputs = [tensor("own", "INT8"), tensor("shortcut", "FP16")]
        add = only_add(
            conv("Conv_1 + Add_2", inputs[::-1] if swap else inputs, tensor("c", "FP16"))
        )
        assert add.reason == MISSING
        assert [row.tensor for row in add.without_qdq] == ["shortcut"]

    def test_a_dequantised_shortcut_has_its_qdq(self) -> None:
        # The last block of a ResNet whose pooling takes floating point: nothing lacks Q/DQ.
        found = audit(
            [
                reformat("DequantizeLinear_1", tensor("q", "INT8"), tensor("x", "FP32"), "QDQ"),
                conv("Conv_1 + Add_2", [tensor("a", "INT8"), tensor("x", "FP32")],
                     tensor("c", "FP32")),
            ]
        )  # fmt: skip
        (add,) = found.adds
        assert (add.left_int8, add.reason, add.without_qdq) == (True, FLOAT_RESULT, ())
        assert found.objections() == []

    def test_a_change_of_layout_in_between_hides_nothing(self) -> None:
        producer = conv("Conv_0", [tensor("i", "INT8")], tensor("x", "FP16"))
        add = only_add(
            producer,
            reformat("copy", tensor("x", "FP16"), tensor("y", "FP16")),
            conv("Conv_1 + Add_2", [tensor("a", "INT8"), tensor("y", "FP16")], tensor("c", "FP16")),
        )
        assert add.without_qdq[0].made_by == "Conv_0"

    def test_reformats_in_a_circle_end(self) -> None:
        add = only_add(
            reformat("one", tensor("x", "FP16"), tensor("y", "FP16")),
            reformat("two", tensor("y", "FP16"), tensor("x", "FP16")),
            conv("Conv_1 + Add_2", [tensor("a", "INT8"), tensor("y", "FP16")], tensor("c", "FP16")),
        )
        assert add.reason == MISSING

    def test_an_input_of_the_engine_as_shortcut(self) -> None:
        found = audit(
            [conv("Conv_1 + Add_2", [tensor("a", "INT8"), tensor("in", "FP16")],
                  tensor("c", "FP16"))]
        )  # fmt: skip
        assert found.adds[0].without_qdq[0].made_by is None
        assert "made by an input of the engine" in found.objections()[0]

    def test_a_floating_point_convolution_is_itself_the_reason(self) -> None:
        found = audit(
            [conv("Conv_1 + Add_2", [tensor("a", "FP16"), tensor("b", "FP16")],
                  tensor("c", "FP16"), weights="FP16")]
        )  # fmt: skip
        assert found.adds[0].reason == FLOAT_CONVOLUTION
        assert found.objections() == ["Conv_1 + Add_2 runs in FP16"]

    @pytest.mark.parametrize("untold", [0, 1, 2])
    def test_what_is_not_told_is_not_vouched_for(
        self, untold: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As the inspector writes of open shapes: "N/A due to dynamic shapes"."""
        words = ["INT8"] * 3
        words[untold] = "unknown"
        own, shortcut, result = (
            tensor(name, word) for name, word in zip("abc", words, strict=True)
        )
        tactic = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32"
        found = audit([conv("Conv_1 + Add_2", [own, shortcut], result, tactic=tactic)])
        assert found.adds[0].reason == NOT_TOLD
        assert found.untold() == ["Add_2"]
        show_audit(found)
        shown = " ".join(capsys.readouterr().out.split())
        assert "1 residual adds, 0 of them outside INT8, 1 unknown" in shown
        (said,) = found.objections()
        assert said.startswith("Add_2: the record lacks its types")

    @pytest.mark.parametrize(
        ("nodes", "operations", "is_add"),
        [
            (("block/add_3/Add",), "", True),
            (("Add_17",), "", True),
            (("x",), "auto const v = pwgen::iPlus(arg0, arg1)", True),
            (("x",), " kSUM", True),
            (("Mul_17",), "pwgen::iMul(arg0, arg1)", False),
            (("padding",), "", False),
        ],
    )
    def test_an_add_of_its_own(self, nodes: Any, operations: str, is_add: bool) -> None:
        summands = (tensor("a", "FP16"), tensor("b", "INT8"))
        row = Layer("p", "PointWiseV2", summands, (tensor("c", "INT8"),), nodes=nodes,
                    operations=operations)  # fmt: skip
        adds = audit([row]).adds
        assert len(adds) == is_add
        if is_add:
            assert (adds[0].fused, adds[0].reason) == (False, MISSING)
            assert [shortcut.tensor for shortcut in adds[0].without_qdq] == ["a"]

    def test_a_bias_is_no_residual_add(self) -> None:
        bias = tensor("bias", "FP16", (1, 64, 1, 1))
        row = Layer("Add_1", "ElementWise", (tensor("a", "FP16"), bias), (tensor("c", "FP16"),),
                    nodes=("Add_1",))  # fmt: skip
        assert audit([row]).adds == ()


class TestConvolutions:
    @pytest.mark.parametrize(
        ("weights", "inputs", "tactic", "precision"),
        [
            ("INT8", ["INT8"], None, "INT8"),
            ("INT8", ["INT8", "FP16"], "turing_fp16_i8816cudnn_int8_relu", "INT8"),
            ("FP16", ["FP16"], None, "FP16"),
            ("FP32", ["FP32"], None, "FP32"),
            ("INT8", ["FP16"], None, "FP16"),  # weights only: it computes in FP16
            ("FP16", ["INT8"], "sm80_xmma_fprop_i8i8_i8i32_f32", "unknown"),  # contradicts itself
            ("INT8", ["unknown"], "sm80_xmma_fprop_i8i8_i8i32_f32", "INT8"),
            (None, ["INT8"], None, "INT8"),
            (None, ["FP16", "INT8"], "sm80_xmma_fprop_i8i8_i8i32_f32", "INT8"),
            (None, ["unknown"], "sm90_xmma_fprop_implicit_gemm_e4m3f16_e4m3f32_f32", "FP8"),
            (None, ["unknown"], "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32", "FP16"),
            (None, ["unknown"], "sm80_xmma_fprop_tf32f32_tf32f32_f32", "FP32"),
            (None, ["unknown"], None, "unknown"),
            (None, [], None, "unknown"),
        ],
    )
    def test_precision(
        self, weights: str | None, inputs: list[str], tactic: str | None, precision: str
    ) -> None:
        sources = [tensor(str(index), name) for index, name in enumerate(inputs)]
        row = conv("c", sources, tensor("out", "INT8"), weights=weights, tactic=tactic)
        (found,) = audit([row]).convolutions
        assert found.precision == precision

    def test_a_pooling_fused_behind_it_is_still_a_convolution(self, tmp_path: Path) -> None:
        record = {
            "Name": "Conv_9 + MaxPool_12",
            "LayerType": "ConvActPool",
            "ParameterType": "ConvActPool",
            "ConvGroups": 2,
            "ConvWeights": {"Type": "Int8", "Count": 9408},
            "Inputs": [
                {"Name": "a", "Dimensions": [1], "Format/Datatype": "Row major Int8 format"}
            ],
        }
        path = tmp_path / "layers.json"
        path.write_text(json.dumps({"Layers": [record]}))
        (row,) = audit(read_layers(path)).convolutions
        assert (row.precision, row.groups) == ("INT8", 2)

    def test_an_engine_that_shows_no_convolution_is_not_vouched_for(self) -> None:
        found = audit([Layer("__myl_ConvAddRelu_0", "kgen", (), ())])
        assert found.opaque == ("__myl_ConvAddRelu_0",)
        (objection,) = found.objections()
        assert "no convolution outside 1 compiled region" in objection

    def test_convolutions_inside_compiled_regions_are_not_vouched_for(self) -> None:
        seen = conv("c", [tensor("a", "INT8")], tensor("c", "INT8"), weights="INT8")
        region = Layer("__myl_ConvAddRelu_0", "kgen", (), ())
        graph = {"c": 1, "d": 1, "e": 32}
        assert audit([seen, region]).objections() == [], "no graph at hand: nothing is counted"
        (objection,) = audit([seen, region], groups=graph).objections()
        assert "2 convolutions are inside 1 compiled region" in objection
        assert audit([seen], groups=graph).objections() == [], "fused: nothing is hidden"


class TestSplitGroups:
    def one(self, name: str, **more: Any) -> Layer:
        return conv(name, [tensor("a", "INT8")], tensor(name, "INT8"), nodes=("Conv_1",), **more)

    def test_one_layer_with_all_groups_is_whole(self) -> None:
        assert audit([self.one("l", groups=32)], groups={"Conv_1": 32}).split == ()

    def test_several_layers(self) -> None:
        rows = [self.one(f"l{index}", groups=1) for index in range(4)]
        (found,) = audit(rows, groups={"Conv_1": 4}).split
        assert (found.layers, found.reason) == (
            ("l0", "l1", "l2", "l3"),
            "4 groups run as 4 layers",
        )

    def test_groups_given_up(self) -> None:
        (found,) = audit([self.one("l", groups=1)], groups={"Conv_1": 32}).split
        assert found.reason == "32 groups run as 1"

    def test_what_the_record_does_not_tell_is_not_claimed(self) -> None:
        assert audit([self.one("l", groups=None)], groups={"Conv_1": 32}).split == ()
        assert audit([self.one("l")], groups={"Conv_2": 32}).split == ()


def test_the_profile_of_another_engine_is_refused() -> None:
    with pytest.raises(ExporterError, match="has no layer of this engine"):
        audit(read_layers(RECORDS / f"{PLAIN}.layers.json"), {"Conv_of_another": 1.0})
