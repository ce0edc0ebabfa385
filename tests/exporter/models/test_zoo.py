"""The zoo: its table, its parameter counts worked out by hand, and saving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter.errors import WrongUse
from exporter.models import zoo

ROOT = Path(__file__).parents[3]
HEAVY = ("keras", "tensorflow", "torch", "onnxruntime", "matplotlib", "PIL", "h5py")

# Parameters of the ImageNet-sized models (224x224x3, 1000 classes): trainable, and the moving
# mean and variance of batch norm, which are not.
#
# torchvision publishes its totals, which count trainable parameters only. Ours differ in two
# ways. Every convolution here has a bias, one for each output channel; torchvision's have none.
# And the shortcuts of the ResNets (not of the ResNeXts) have no batch norm here, where
# torchvision's have two parameters a channel. Worked by hand, with the blocks' depths d and
# widths w by stage:
#
# biases of 18 and 34: stem 64, 2w a block, w a shortcut in stages 2 to 4 (128+256+512 = 896)
#   18:  64 + 2*(2*64 + 2*128 + 2*256 + 2*512)  + 896 = 64 + 3840 + 896   =   4,800
#   34:  64 + 2*(3*64 + 4*128 + 6*256 + 3*512)  + 896 = 64 + 7552 + 896   =   8,512
# biases of 50 to 152: stem 64, w/4 + w/4 + w = 1.5w a block, w a shortcut in all four stages
# (256+512+1024+2048 = 3840)
#   50:  64 + 3*384 + 4*768 +  6*1536 + 3*3072 + 3840 = 64 + 22656 + 3840 =  26,560
#   101: 64 + 3*384 + 4*768 + 23*1536 + 3*3072 + 3840 = 64 + 48768 + 3840 =  52,672
#   152: 64 + 3*384 + 8*768 + 36*1536 + 3*3072 + 3840 = 64 + 71808 + 3840 =  75,712
# biases of the ResNeXts: w/2 + w/2 + w = 2w a block where 4 wide, 3w where 8 wide
#   50:  64 + 3*512 + 4*1024 +  6*2048 + 3*4096 + 3840 = 64 + 30208 + 3840 =  34,112
#   101: 64 + 3*768 + 4*1536 + 23*3072 + 3*6144 + 3840 = 64 + 97536 + 3840 = 101,440
# batch norm of torchvision's shortcuts: 2*896 = 1,792 and 2*3840 = 7,680
#
# name: (torchvision, + biases, - shortcuts' batch norm)
TORCHVISION = {
    "resnet18": (11_689_512, 4_800, 1_792),
    "resnet34": (21_797_672, 8_512, 1_792),
    "resnet50": (25_557_032, 26_560, 7_680),
    "resnet101": (44_549_160, 52_672, 7_680),
    "resnet152": (60_192_808, 75_712, 7_680),
    "resnext50_32x4d": (25_028_904, 34_112, 0),
    "resnext101_32x8d": (88_791_336, 101_440, 0),
}
# Moving statistics: two for each channel that has batch norm, which is each bias above, less
# those of shortcuts without batch norm: 2*(4800-896) = 7,808 for 18, 2*(26560-3840) = 45,440
# for 50, 2*34112 = 68,224 for ResNeXt-50 and so on.
#
# resnext26_32x4d is ResNeXt-50 less 1, 2, 4 and 1 identity blocks. One such block of width w
# and inner width i = w/2 has wi+i, 9ii/32+i, iw+w and batch norms 2i, 2i, 2w, which is
# ww + 9ww/128 + 6w: 71,680, 283,648, 1,128,448 and 4,501,504 for w = 256 to 2048.
#   25,063,016 - 71,680 - 2*283,648 - 4*1,128,448 - 4,501,504 = 15,408,744
#   moving: 2*(64 + 2*(512+1024+2048+4096) + 3840) = 38,528
# resnext26_16x4d: an identity block is ww + 9ww/64 + 6w: 19,456, 76,288, 302,080, 1,202,176 for
# w = 128 to 1024, in all 1,600,000. A first block with c inputs has (w-c)i fewer in its first
# convolution and cw + 3w more in its shortcut: 23,936, 93,440, 369,152, 1,467,392, in all
# 1,953,920. Stem 49*3*64 + 64 + 128 = 9,600; head 1024*1000 + 1000 = 1,025,000.
#   1,600,000 + 1,953,920 + 9,600 + 1,025,000 = 4,588,520
#   moving: 2*(64 + 2*2*(128+256+512+1024) + 1920) = 19,328
BY_HAND = {
    "resnet18": (11_692_520, 7_808),
    "resnet34": (21_804_392, 15_232),
    "resnet50": (25_575_912, 45_440),
    "resnet101": (44_594_152, 97_664),
    "resnet152": (60_260_840, 143_744),
    "resnext26_16x4d": (4_588_520, 19_328),
    "resnext26_32x4d": (15_408_744, 38_528),
    "resnext50_32x4d": (25_063_016, 68_224),
    "resnext101_32x8d": (88_892_776, 202_880),
}
# The papers' tables: blocks a stage, width of the last stage, inner width of the first stage,
# groups. He et al. 2015, table 1; Xie et al. 2016, table 1 and section 4.1.
PAPERS = {
    "resnet18": ((2, 2, 2, 2), 512, None, 1),
    "resnet34": ((3, 4, 6, 3), 512, None, 1),
    "resnet50": ((3, 4, 6, 3), 2048, 64, 1),
    "resnet101": ((3, 4, 23, 3), 2048, 64, 1),
    "resnet152": ((3, 8, 36, 3), 2048, 64, 1),
    "resnext26_16x4d": ((2, 2, 2, 2), 1024, 16 * 4, 16),
    "resnext26_32x4d": ((2, 2, 2, 2), 2048, 32 * 4, 32),
    "resnext50_32x4d": ((3, 4, 6, 3), 2048, 32 * 4, 32),
    "resnext101_32x8d": ((3, 4, 23, 3), 2048, 32 * 8, 32),
}
BIG = ("resnet101", "resnet152", "resnext101_32x8d")


def each_model(slow: tuple[str, ...]) -> list[Any]:
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in zoo.ZOO
    ]


def counted_layer_by_layer(name: str) -> tuple[int, int]:
    """Sum k*k*cin/groups*cout + cout over convolutions, 2c + 2c over batch norms, the head."""
    depths, last_width, first_inner, groups = PAPERS[name]
    trainable = moving = 0

    def conv(k: int, cin: int, cout: int, groups: int = 1, bn: bool = True) -> None:
        nonlocal trainable, moving
        trainable += k * k * (cin // groups) * cout + cout + (2 * cout if bn else 0)
        moving += 2 * cout if bn else 0

    conv(7, 3, 64)
    cin = 64
    for stage, depth in enumerate(depths):
        cout = last_width >> (3 - stage)
        for block in range(depth):
            if first_inner is None:
                conv(3, cin, cout)
                conv(3, cout, cout)
            else:
                inner = first_inner << stage
                conv(1, cin, inner)
                conv(3, inner, inner, groups)
                conv(1, inner, cout)
            if block == 0 and (stage > 0 or cin != cout):
                conv(1, cin, cout, bn=name.startswith("resnext"))
            cin = cout
    return trainable + cin * 1000 + 1000, moving


@pytest.mark.parametrize("name", BY_HAND)
def test_hand_computed_counts_agree_with_a_sum_over_layers(name: str) -> None:
    assert counted_layer_by_layer(name) == BY_HAND[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_hand_computed_counts_reconcile_with_torchvision(name: str) -> None:
    published, biases, shortcut_bn = TORCHVISION[name]
    assert published + biases - shortcut_bn == BY_HAND[name][0]


def test_every_model_has_a_hand_computed_count() -> None:
    assert set(BY_HAND) == set(PAPERS) == set(zoo.ZOO)


@pytest.mark.tf
@pytest.mark.parametrize("name", each_model(BIG))
def test_parameters_at_imagenet_size(keras: ModuleType, name: str) -> None:
    model = zoo.build(name, image_size=224, channels=3, classes=1000)
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    moving = sum(int(np.prod(w.shape)) for w in model.non_trainable_weights)
    assert (trainable, moving) == BY_HAND[name]
    assert model.count_params() == trainable + moving
    assert model.output.shape == (None, 1000)


def with_lived_in_statistics(model: Any) -> Any:
    """Give batch norm statistics and biases that are not their initial 0 and 1."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.mark.tf
@pytest.mark.parametrize(
    "name", each_model((*BIG, "resnet34", "resnet50", "resnext26_32x4d", "resnext50_32x4d"))
)
def test_saves_and_loads_with_no_custom_objects(
    keras: ModuleType, tmp_path: Path, name: str
) -> None:
    model = with_lived_in_statistics(zoo.build(name, image_size=32))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(1).random((2, 32, 32, 1), np.float32)
    logits = np.asarray(model(x, training=False))
    assert np.ptp(logits) > 0
    np.testing.assert_array_equal(np.asarray(loaded(x, training=False)), logits)


@pytest.mark.tf
def test_loads_in_a_process_that_knows_nothing_of_this_package(
    keras: ModuleType, tmp_path: Path
) -> None:
    model = with_lived_in_statistics(zoo.build("resnext26_16x4d", image_size=32))
    x = np.random.default_rng(1).random((2, 32, 32, 1), np.float32)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy as np, keras\n"
        "model = keras.models.load_model('model.keras')\n"
        "np.save('logits.npy', model(np.load('x.npy'), training=False))\n"
        "assert not any(name.split('.')[0] == 'exporter' for name in sys.modules)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        np.load(tmp_path / "logits.npy"), np.asarray(model(x, training=False))
    )


@pytest.mark.tf
def test_size_channels_and_classes_are_parameters(keras: ModuleType) -> None:
    model = zoo.build("resnet18", image_size=33, channels=3, classes=7)
    assert model.name == "resnet18"
    assert model(np.zeros((2, 33, 33, 3), np.float32)).shape == (2, 7)
    assert (model.input.name, model.layers[-1].name) == ("input", "logits")


def test_unknown_model_lists_the_nearest() -> None:
    with pytest.raises(WrongUse, match="unknown model 'resnet19'") as caught:
        zoo.lookup("resnet19")
    assert caught.value.hint is not None
    assert "resnet18" in caught.value.hint
    with pytest.raises(WrongUse):
        zoo.build("resnet19")


def test_checkpoint_is_there_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "_CHECKPOINTS", tmp_path)
    assert zoo.lookup("resnet18").checkpoint is None
    (tmp_path / "resnet18.keras").touch()
    assert zoo.lookup("resnet18").checkpoint == tmp_path / "resnet18.keras"


def test_names_agree() -> None:
    assert all(name == row.name for name, row in zoo.ZOO.items())


def test_looking_at_the_zoo_imports_nothing_heavy() -> None:
    script = (
        "import sys, exporter.models.zoo, exporter.training.train\n"
        "import exporter.diagnosis, exporter.data.datasets\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
