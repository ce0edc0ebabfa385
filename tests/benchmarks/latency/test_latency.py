"""``exporter bench``: its bookkeeping, its processes, one whole run; never its timings."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.latency import bench as latency
from benchmarks.latency import payoff, timing_worker, worker
from benchmarks.latency import result as latency_result
from benchmarks.latency.bench import Plan, run, summarize, time_apart
from benchmarks.latency.engines import Engine
from benchmarks.latency.images import read_images
from benchmarks.latency.peers import AS_RECORDED
from benchmarks.latency.result import Report
from benchmarks.latency.timing_worker import Job, warm_up
from exporter.artifact import folder as artifact
from exporter.cli.commands import bench_table
from exporter.cli.main import main
from exporter.errors import WrongUse
from tests.benchmarks.latency_jobs import row, tiny

SAMPLE = {
    "calls_ms": [1.0, 2.0, 3.0, 4.0],
    "elapsed_s": 0.011,
    "warm": True,
    "warm_up_s": 0.2,
    "load": dict.fromkeys(("others", "stolen", "throttled_s", "throttle_events", "mhz")),
    "peak_rss_mib": 50.0,
    "energy_mj": {},
    "device": {},
    "settings": {"threads": 1},
}
QUICK = Plan(batches=(2,), rounds=2, seconds=0.0, warm_up_s=0.0)


def job(name: str, batch: int = 1) -> Job:
    return Job(Engine(name, "artefact", Path(name)), Path("x.npy"), batch, 1, (), 0.0, 0.0)


def test_a_block_by_hand() -> None:
    found = latency_result.block(3, 8, SAMPLE)
    assert (found.round, found.calls, found.mean_ms, found.p50_ms) == (3, 4, 2.5, 2.5)
    assert found.p90_ms == pytest.approx(3.7)
    assert found.p99_ms == pytest.approx(3.97)
    assert found.throughput == pytest.approx(32 / 0.011)
    assert found.cost("offline", 8) == pytest.approx(1000 * 8 / (32 / 0.011))
    assert (found.cost("sweep", 8), found.cost("single-stream", 8)) == (2.5, found.p90_ms)


def test_ratio_pairs_by_round() -> None:
    slow, fast = [8.0, 16.0, 24.0, 8.8, 8.4], [2.0, 4.0, 6.0, 2.2, 2.1]
    found = latency_result.speedup(row("int8", fast), row("keras", slow), "sweep")
    assert (found.ratio, found.low, found.high) == pytest.approx((4, 4, 4))
    assert str(found) == "4.00x [4.00, 4.00]"


def test_rounds_are_whole_and_their_order_is_the_seeds() -> None:
    jobs = [job(name, batch) for name in ("keras", "a", "b") for batch in (1, 8)]

    def turns(seed: int) -> list[Job]:
        seen: list[Job] = []
        plan = Plan(rounds=6, seed=seed)
        run(jobs, plan, lambda *_: None, lambda each: seen.append(each) or dict(SAMPLE))
        return seen

    rounds = [turns(1)[i : i + 6] for i in range(0, 36, 6)]
    assert all(len(set(each)) == 6 for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert turns(1) == turns(1) != turns(2)


def test_what_failed_is_a_row_and_not_tried_again() -> None:
    jobs, tried = [job("keras"), job("broken")], []

    def once(each: Job) -> dict[str, Any]:
        tried.append(each.engine.name)
        return dict(SAMPLE) if each.engine.name == "keras" else {"error": "no", "hint": "yes"}

    rows = summarize(jobs, run(jobs, Plan(rounds=5), lambda *_: None, once), "sweep", "keras")
    assert tried.count("broken") == 1
    assert [one.error for one in rows] == [None, "no (yes)"]
    assert rows[1].speedup is None
    assert rows[1].blocks == ()


def test_workers_that_fail_say_why(tmp_path: Path) -> None:
    gone = Job(Engine("gone", "artefact", tmp_path), tmp_path, 1, 1, (), 0.0, 0.0)
    assert "is not an artifact" in time_apart(gone)["error"]
    broken = replace(gone, engine=Engine("gone", "artefact", tiny(tmp_path / "a").path))
    assert "ended with 1: " in time_apart(broken)["error"]  # its images are a folder


def test_an_interrupt_takes_the_worker_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[Any] = []

    class Interrupted(worker.subprocess.Popen):  # type: ignore[name-defined, misc]
        def communicate(self, *_: Any, **__: Any) -> Any:
            workers.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(worker.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        time_apart(replace(job("x"), images=tmp_path))
    assert workers[0].returncode == -9


def test_warm_up_ends_when_calls_settle_or_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = iter([9.0, 5.0, 3.0, 1.04, 1.0, 1.02, 7.0])
    monkeypatch.setattr(timing_worker, "repeat", lambda *_: [next(groups)])
    assert warm_up(lambda: None, 60.0)
    assert next(groups) == 7.0, "six groups: the last three lie within 5%"
    monkeypatch.setattr(timing_worker, "repeat", lambda *_: [time.perf_counter()])
    assert not warm_up(lambda: None, 0.0)


def test_a_job_survives_its_way_into_the_process() -> None:
    sent = replace(job("keras"), cores=(1, 0))
    assert Job.from_json(sent.as_json()) == sent


@pytest.mark.parametrize(
    "options", [{"rounds": 1}, {"batches": (0,)}, {"scenario": "single-stream"}]
)
def test_plans_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(WrongUse):
        Plan(**options)


def test_minimum_duration_is_spread_over_the_rounds() -> None:
    assert Plan(min_duration=600.0, rounds=6).block_s == 100.0
    assert Plan(min_duration=1.0, seconds=2.0).block_s == 2.0


def test_more_threads_than_cores_and_simulations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="cores are usable"):
        latency.choose_cores(len(os.sched_getaffinity(0)) + 1)
    simulated = tiny(tmp_path / "a", precision="int8", target="onnx")
    with pytest.raises(WrongUse, match="says nothing about its speed"):
        latency.check([simulated])
    one = tiny(tmp_path / "b")
    with pytest.raises(WrongUse, match="twice"):
        latency.check([one, one])


def test_verdict_has_interval_and_price(tmp_path: Path) -> None:
    full, low = tiny(tmp_path / "fp32"), tiny(tmp_path / "int8", precision="int8")
    rows = [row(str(full.path), [8.0] * 5), row(str(low.path), [2.0] * 5)]
    (found,) = payoff.verdicts([low, full], rows, "sweep")
    assert found.startswith("ort, batch 1, beside FP32: INT8 is 4.00x [4.00, 4.00] as fast")
    assert "accuracy not measured here" in found
    data = {"data": "npz:x", "images": 10_000}
    full, low = (
        one.record("accuracy", {**data, "top1": top1})
        for one, top1 in ((full, 0.9245), (low, 0.9242))
    )
    half = tiny(tmp_path / "fp16", precision="fp16").record("accuracy", {**data, "top1": 0.9246})
    rows.append(row(str(half.path), [7.9, 8.1, 8.0, 7.8, 8.2]))
    (found,) = payoff.verdicts([full, low, half], rows, "sweep")
    assert found.split(": ")[1].startswith(
        "INT8 is 4.00x [4.00, 4.00] as fast for 0.03 points; FP16 gains nothing here (1.00x ["
    )
    assert found.endswith("]) with 0.01 points won")


def test_a_whole_run(tmp_path: Path, tiny_data: str) -> None:
    one = tiny(tmp_path / "tiny-ort")
    file = tmp_path / "bench.json"
    given = ["bench", str(one.path), "--against", "none", "--batch", "1,3", "--threads", "1"]
    given += ["--seconds", "0", "--warm-up", "0", "--data", tiny_data, "--json", "-o", str(file)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    report = json.loads(file.read_text())
    assert json.loads(result.stdout) == report
    assert report["baseline"] == str(one.path)
    assert [r["batch"] for r in report["rows"]] == [1, 3]
    for found in report["rows"]:
        assert len(found["blocks"]) == 5
        assert all(block["calls"] >= timing_worker.LEAST_CALLS for block in found["blocks"])
        assert 0 < found["quantiles_ms"]["50"] <= found["quantiles_ms"]["99"]
        assert found["file_bytes"] == (one.path / artifact.MODEL).stat().st_size
        assert found["peak_rss_mib"] > 10
    measured = artifact.read(one.path).passport["measured"]["latency"]
    assert measured["settings"]["threads"] == 1
    assert set(measured["batches"]) == {"1", "3"}


def test_strict_says_no_to_an_unstable_run(
    tmp_path: Path, tiny_data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tiny(tmp_path / "tiny-ort")
    sample = {**SAMPLE, "load": {**SAMPLE["load"], "others": 0.4}}
    monkeypatch.setattr(latency, "time_apart", lambda _: dict(sample))
    given = ["bench", str(one.path), "--against", "none", "--batch", "1", "--data", tiny_data]
    loose = CliRunner().invoke(main, given)
    assert loose.exit_code == 0, loose.output
    assert "unstable:" in loose.stdout
    assert "other processes took up to 40%" in loose.stdout
    assert CliRunner().invoke(main, [*given, "--strict"]).exit_code == 1


def test_the_table_shows_intervals_as_they_are_and_short_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = [row("keras", [8.0] * 5), row("far/away/[b]int8", [2.0] * 5)]
    rows = [replace(one, quantiles_ms=dict.fromkeys(("50", "90", "99"), 2.0)) for one in rows]
    rows[1] = replace(rows[1], speedup=latency_result.speedup(rows[1], rows[0], "sweep"))
    parts = {part: {"p50": 1.25} for part in bench_table._PARTS}
    blocks = tuple(
        replace(b, device_ms=parts, energy_mj={"RAPL core": 0.5}) for b in rows[1].blocks
    )
    rows[1] = replace(rows[1], blocks=blocks, settings={"cuda_graph": True})
    settings = {"threads": 2, "rounds": 5}
    bench_table.show(
        Report("sweep", "keras", tuple(rows), (), (), settings, {}, {}, "2026"), {"keras": 0.93}
    )
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("│ [b]int8 ")]
    assert "4.00x [4.00, 4.00]" in shown
    assert "0.9300" in shown
    assert [line for line in shown.splitlines() if "1.250" in line and " yes │" in line]
    assert "far/away/[b]int8, batch 1: 0.5 mJ per image (RAPL core)" in shown


def test_parts_on_a_device_and_energy_by_hand() -> None:
    parts = {"compute_ms": [1.0, 2.0, 3.0], "enqueue_ms": [0.5, 0.5, 0.5]}
    block = latency_result.block(0, 1, {**SAMPLE, "device": parts})
    assert block.device_ms["compute_ms"]["p50"] == 2.0
    assert block.device_ms["compute_ms"]["mean"] == 2.0
    blocks = tuple(
        replace(block, energy_mj={"RAPL": mj, **more})
        for mj, more in ((3.0, {}), (1.0, {"NVML": 5.0}), (2.0, {"NVML": 7.0}))
    )
    assert latency_result.Row("a", 1, blocks).energy_mj == {"RAPL": 2.0}, "not in all rounds"


def test_the_passport_gets_what_the_gate_compares(tmp_path: Path) -> None:
    from benchmarks.gate.facts import read_facts

    one = tiny(tmp_path / "a")
    keras = row("keras", [8.0] * 5)
    fast = row(str(one.path), [2.0] * 5)
    fast = replace(fast, speedup=latency_result.speedup(fast, keras, "sweep"))
    report = Report("sweep", "keras", (keras, fast), (), (), {}, {}, {}, "2026-11-23")
    (recorded,) = latency.record([one], report)
    assert read_facts(recorded).latency_ratio == pytest.approx(0.25)
    (recorded,) = latency.record([one], replace(report, baseline="nncf"))
    assert read_facts(recorded).latency_ratio is None


def test_an_engine_on_a_gpu_is_timed_with_a_graph_and_without(tmp_path: Path) -> None:
    from tests.exporter.engine_files import artefact

    one = artifact.read(artefact(tmp_path / "trt"))
    graphs = [(e.name, e.cuda_graph) for e in latency.line_up([one], (), tmp_path, AS_RECORDED)]
    assert graphs == [(str(one.path), True), (f"{one.path} (no CUDA graph)", False)]


def test_an_artifact_of_onnxruntimes_providers_is_timed_the_same(tmp_path: Path) -> None:
    one = tiny(tmp_path / "cuda", target="ort-cuda")
    told = {**one.passport, "ort-cuda": {"compiled": True, "provider": "CUDAExecutionProvider"}}
    made = artifact.Artifact(one.path, told)
    graphs = [(e.name, e.cuda_graph) for e in latency.line_up([made], (), tmp_path, AS_RECORDED)]
    assert graphs == [(str(one.path), True), (f"{one.path} (no CUDA graph)", False)]


@pytest.mark.tf
def test_the_original_runs_as_one_function_and_by_xla(keras: Any) -> None:
    from exporter.network import sources
    from exporter.network.runner import KerasRunner
    from tests.exporter.networks import plain

    source = sources.from_model(plain(keras), "plain")
    images = np.random.default_rng(0).random((3, 16, 16, 1), np.float32)
    results = []
    for xla in (False, True):
        with KerasRunner(source, jit_compile=xla) as runner:
            (logits,) = runner.infer({source.inputs[0].name: images}).values()
        results.append(logits)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_bench_reads_its_images_as_the_passport_says(tmp_path: Path, tiny_data: str) -> None:
    images = read_images(tiny(tmp_path / "a"), tiny_data, 2, lambda *_: None)
    assert images.shape == (64, 16, 16, 1)
    assert 0 <= images.min() < images.max() <= 1
    bare = artifact.Artifact(tmp_path, {"preprocessing": None})
    with pytest.raises(WrongUse, match=r"preprocessing of .* is unknown"):
        read_images(bare, tiny_data, 2, lambda *_: None)


def test_images_of_other_channels_are_refused_before_anything_is_timed(tmp_path: Path) -> None:
    np.savez(tmp_path / "rgb.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    data = f"npz:{tmp_path / 'rgb.npz'}"
    with pytest.raises(
        WrongUse, match=r"takes images with 1 channel\(s\), but those of rgb.npz have 3"
    ):
        read_images(tiny(tmp_path / "a"), data, 2, lambda *_: None)


def test_noise_has_the_shape_that_the_network_takes(tmp_path: Path) -> None:
    one = tiny(tmp_path / "a")
    drawn = read_images(one, None, 100, lambda *_: None)
    assert drawn.shape == (100, 16, 16, 1)
    assert 0 <= drawn.min() < 0.1 < 0.9 < drawn.max() < 1
