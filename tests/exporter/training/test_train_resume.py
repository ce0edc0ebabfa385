"""Training that goes on: from where it was killed, at any moment, or from another file."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from exporter.errors import ExporterError, WrongUse
from exporter.training import state as train_state
from exporter.training import train
from tests.exporter.training_runs import (
    assert_same,
    configure,
    ctrl_c,
    run_interrupted,
    tiny_build,
    without_seconds,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.tf
@pytest.mark.usefixtures("quick")
class TestResume:
    def test_after_ctrl_c_it_ends_as_if_never_stopped(
        self, tmp_path: Path, tiny_data: str, weights_at_the_end: list[list[np.ndarray]]
    ) -> None:
        whole = train.train(configure(tmp_path, tiny_data, output=tmp_path / "whole.keras"))
        config = configure(tmp_path, tiny_data)
        run_interrupted(config)
        assert not config.output.exists()
        stages: list[str] = []
        resumed = train.train(config, lambda stage, *_: stages.append(stage))
        assert "epoch 1/3" not in stages
        assert without_seconds(resumed) == without_seconds(whole)
        assert_same(*weights_at_the_end)
        assert config.output.read_bytes() == (tmp_path / "whole.keras").read_bytes()

    @pytest.mark.parametrize("moment", ["before", "while", "after"])
    def test_a_kill_while_one_checkpoint_replaces_another(
        self, tmp_path: Path, tiny_data: str, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Before the old one goes, with half of it deleted, and before the new one is named."""
        config = configure(tmp_path, tiny_data)
        state = Path(f"{config.output}.unfinished")
        retire, rmtree = train_state.retire, shutil.rmtree

        def half_deleted(path: Path, **_: Any) -> None:
            if (Path(path) / "state.json").is_file():
                (Path(path) / "state.json").unlink()
                raise KeyboardInterrupt
            rmtree(path, ignore_errors=True)

        def killed(folder: Path) -> None:
            if folder.is_dir():  # there is an old one from the second epoch on
                if moment == "while":
                    monkeypatch.setattr(shutil, "rmtree", half_deleted)
                if moment != "before":
                    retire(folder)
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(train_state, "retire", killed)
            with pytest.raises(KeyboardInterrupt):
                train.train(config)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        assert state.is_dir() is (moment == "before")
        stages: list[str] = []
        resumed = train.train(config, lambda stage, *_: stages.append(stage))
        assert [row["epoch"] for row in resumed["epochs"]] == [1, 2, 3]
        assert "epoch 1/3" not in stages
        assert ("epoch 2/3" in stages) is (moment == "before")
        assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []

    def test_a_kill_while_the_first_checkpoint_is_written_starts_over(
        self, tmp_path: Path, tiny_data: str
    ) -> None:
        config = configure(tmp_path, tiny_data, epochs=1)
        aside = tmp_path / "out.keras.unfinished.new"
        aside.mkdir()
        (aside / "model.keras").write_bytes(b"half a file")
        assert len(train.train(config)["epochs"]) == 1
        assert not aside.exists()

    def test_a_kill_after_the_last_epoch_only_writes_the_result(
        self, tmp_path: Path, tiny_data: str
    ) -> None:
        config = configure(tmp_path, tiny_data, epochs=2, held_out=0)
        with pytest.raises(KeyboardInterrupt):
            train.train(config, lambda stage, *_: ctrl_c() if stage == "test images" else None)
        stages: list[str] = []
        result = train.train(config, lambda stage, *_: stages.append(stage))
        assert set(stages) == {"test images"}
        assert len(result["epochs"]) == 2

    def test_another_configuration_is_refused_by_name(self, tmp_path: Path, tiny_data: str) -> None:
        run_interrupted(configure(tmp_path, tiny_data))
        other = configure(tmp_path, tiny_data, learning_rate=0.01, flip=False)
        with pytest.raises(WrongUse, match="different options: learning_rate, flip\n") as caught:
            train.train(other)
        assert "delete" in str(caught.value.hint)
        train.train(configure(tmp_path, tiny_data))

    @pytest.mark.parametrize(
        ("member", "content"),
        [("state.json", b"{"), ("state.json", b"{}"), ("state.json", None), ("model.keras", b"PK")],
    )
    def test_a_damaged_state_is_an_error_that_names_it(
        self, tmp_path: Path, tiny_data: str, member: str, content: bytes | None
    ) -> None:
        config = configure(tmp_path, tiny_data)
        run_interrupted(config)
        file = tmp_path / "out.keras.unfinished" / member
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ExporterError, match=r"out\.keras\.unfinished") as caught:
            train.train(config)
        assert caught.value.exit_code == 1


@pytest.mark.tf
@pytest.mark.usefixtures("tiny")
def test_after_sigkill_it_ends_as_if_never_stopped(
    tmp_path: Path, tiny_data: str, weights_at_the_end: list[list[np.ndarray]]
) -> None:
    script = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from exporter.training import train
from exporter.models import zoo
from tests.exporter import training_runs as training
zoo.build = training.tiny_build
config = training.configure(pathlib.Path({str(tmp_path)!r}), {tiny_data!r}, epochs=2)
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
train.train(config, training.Interrupter("epoch 2", kill))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    config = configure(tmp_path, tiny_data, epochs=2)
    assert Path(f"{config.output}.unfinished").is_dir()
    resumed = train.train(config)
    whole = train.train(configure(tmp_path, tiny_data, epochs=2, output=tmp_path / "whole.keras"))
    assert without_seconds(resumed) == without_seconds(whole)
    assert_same(*weights_at_the_end)


@pytest.mark.tf
@pytest.mark.usefixtures("quick")
class TestStartFrom:
    def test_takes_the_weights(self, tmp_path: Path, tiny_data: str) -> None:
        first = train.train(configure(tmp_path, tiny_data, epochs=4))
        second = train.train(
            configure(
                tmp_path,
                tiny_data,
                epochs=1,
                output=tmp_path / "second.keras",
                start_from=tmp_path / "out.keras",
                learning_rate=1e-3,
            )
        )
        fresh = train.train(
            configure(
                tmp_path, tiny_data, epochs=1, output=tmp_path / "x.keras", learning_rate=1e-3
            )
        )
        assert second["epochs"][0]["loss"] < 0.7 * fresh["epochs"][0]["loss"]
        assert second["epochs"][0]["loss"] < 2 * first["epochs"][-1]["loss"]
        assert second["config"]["start_from"] == str(tmp_path / "out.keras")

    def test_another_network_is_wrong_use(
        self, keras: ModuleType, tmp_path: Path, tiny_data: str
    ) -> None:
        other = tiny_build("x", image_size=16, channels=1, classes=9)
        other.save(tmp_path / "nine.keras")
        with pytest.raises(WrongUse, match=r"nine\.keras contains another network"):
            train.train(configure(tmp_path, tiny_data, start_from=tmp_path / "nine.keras"))

    @pytest.mark.parametrize("content", [b"not a zip", b"PK\x03\x04 cut off"])
    def test_a_damaged_file_is_an_error(
        self, tmp_path: Path, tiny_data: str, content: bytes
    ) -> None:
        (tmp_path / "bad.keras").write_bytes(content)
        with pytest.raises(ExporterError, match=r"can't load .*bad\.keras") as caught:
            train.train(configure(tmp_path, tiny_data, start_from=tmp_path / "bad.keras"))
        assert caught.value.exit_code == 1

    def test_a_cut_off_checkpoint_is_an_error(self, tmp_path: Path, tiny_data: str) -> None:
        tiny_build("x", image_size=16, channels=1, classes=3).save(tmp_path / "cut.keras")
        whole = (tmp_path / "cut.keras").read_bytes()
        (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ExporterError, match=r"can't load .*cut\.keras"):
            train.train(configure(tmp_path, tiny_data, start_from=tmp_path / "cut.keras"))

    def test_a_damaged_history_is_told_before_training(
        self, tmp_path: Path, tiny_data: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny_build("x", image_size=16, channels=1, classes=3).save(tmp_path / "past.keras")
        (tmp_path / "past.history.json").write_text('{"epochs": [')
        monkeypatch.setattr(train, "_run_epoch", lambda *_: pytest.fail("it trained"))
        with pytest.raises(ExporterError, match=r"past\.history\.json is not a readable history"):
            train.train(configure(tmp_path, tiny_data, start_from=tmp_path / "past.keras"))
