"""Many jobs, several at once, one table; what was finished is not done again."""

import csv
import json
from pathlib import Path

import pytest

from hopscotch.config.errors import ConfigError
from hopscotch.report.summary import Status, write_summary
from scripts.studies import runner
from scripts.studies.runner import plan, run_jobs
from scripts.studies.table import report_study
from scripts.studies.thresholds import OPEN_RATE, THRESHOLD, draw_thresholds, read_gates


def test_the_plan_is_that_of_a_sweep_and_quick_keeps_one_seed() -> None:
    words = ["experiment=study_strides", "data.root=x"]
    jobs = plan(words, quick=False)
    assert len(jobs) == 4 * 2 * 2 * 3
    assert plan(words, quick=True) == [job for job in jobs if "seed=0" in job]
    part = plan([*words, "model.encoder.estimator=gain"], quick=True)
    assert part == [job for job in plan(words, quick=True) if "model.encoder.estimator=gain" in job]
    assert plan(["model=dense,learned_skip"], quick=True) == [
        ["model=dense", "seed=0"],
        ["model=learned_skip", "seed=0"],
    ]


def finish(folder: Path, status: Status = "finished") -> None:
    write_summary(folder, status=status, model="dense", seed=0, test={"acc": 1.0}, compute=None, seconds={"total": 1.0})


def test_a_finished_job_is_not_run_again_and_an_unfinished_one_is(tmp_path: Path, monkeypatch) -> None:
    jobs = [["model=dense", "seed=0"], ["model=dense", "seed=1"], ["model=dense", "seed=2"]]
    finish(tmp_path / "model-dense_seed-0")
    finish(tmp_path / "model-dense_seed-1", status="failed")
    ran = []

    def run_job(job, folder: Path, threads: str, running) -> float:
        ran.append(job)
        finish(folder, status="failed" if "seed=2" in job else "finished")
        return 3.0

    monkeypatch.setattr(runner, "run_job", run_job)
    ended = {folder.name: (finished, seconds) for folder, finished, seconds in run_jobs(jobs, tmp_path, 2)}
    assert sorted(ran) == jobs[1:]
    assert ended == {
        "model-dense_seed-0": (True, 0.0),
        "model-dense_seed-1": (True, 3.0),
        "model-dense_seed-2": (False, 3.0),
    }


def test_a_job_is_a_run_of_train_py_with_its_own_log_and_threads(tmp_path: Path, monkeypatch) -> None:
    called = {}

    class Process:
        def __init__(self, words, *, stdout, env, **_) -> None:
            called.update(words=words, log=stdout.name, threads=env["OMP_NUM_THREADS"])

        def wait(self) -> None:
            called["running"] = self in running

    monkeypatch.setattr(runner.subprocess, "Popen", Process)
    left = tmp_path / "job"
    finish(left, status="failed")
    running: set = set()
    runner.run_job(["model=dense"], left, "1", running)
    assert not left.exists()
    assert called["running"]
    assert not running
    assert called["words"][1].endswith("train.py")
    assert called["words"][2:] == ["model=dense", "trainer.enable_progress_bar=false", f'hydra.run.dir="{left}"']
    assert (called["log"], called["threads"]) == (f"{left}.log", "1")


def test_threads_are_shared_out_among_the_lanes_unless_the_environment_says_how_many(
    tmp_path: Path, monkeypatch
) -> None:
    seen = []

    def run_job(job, folder: Path, threads: str, running) -> float:
        seen.append(threads)
        return 0.0

    monkeypatch.setattr(runner, "run_job", run_job)
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 8)
    for given, lanes in (("", 2), ("", 16), ("3", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        list(run_jobs([["a=1"]], tmp_path, lanes))
    assert seen == ["4", "1", "3"]


def test_whoever_stops_a_study_stops_its_jobs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "train.py").write_text("import sys, time; time.sleep(600 * ('b' in sys.argv))")
    monkeypatch.setattr(runner, "PROJECT_ROOT", tmp_path)
    jobs = run_jobs([["a"], ["b"]], tmp_path / "out", 2)
    folder, finished, _ = next(jobs)
    assert (folder.name, finished) == ("a", False)
    jobs.close()  # returns: the job that would sleep for ten minutes is gone


def write_job(folder: Path, rule: str, speaker: str, seed: int, own: list[int], shuffled: list[float]) -> None:
    accuracy = sum(own) / len(own)
    compute = {"fraction": 0.5, "macs": 2e6, "dense_macs": 4e6, "floor": 0.4}
    seconds = {"total": 10.0, "fit": 8.0, "to_first_step": 1.0}
    write_summary(
        folder, status="finished", model="m", seed=seed, test={"acc": accuracy}, compute=compute, seconds=seconds
    )
    words = [f"rule={rule}", f"data.test_speaker={speaker}", f"seed={seed}", "data.root=x"]
    (folder / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    one = {
        "acc": accuracy,
        "loss": 1.0,
        "fraction": 0.5,
        "shuffled_acc": sum(shuffled) / len(shuffled),
        "shuffled_loss": 1.5,
    }
    one |= {"shuffled_fraction": 0.5, "short_acc": 0.1, "full_acc": 0.9, "gain_correlation": 0.3, "entropy": 1.0}
    one |= {"routes": 3, "common_routes": 2}
    conditions = [{"condition": "clean", "acc": accuracy, "fraction": 0.5}]
    (folder / "report").mkdir()
    (folder / "report" / "decision_value.json").write_text(
        json.dumps({"conditions": conditions, "time_fraction": 0.6, "clean": one, "mixed": one})
    )
    lines = ["level,set,clip,own_acc,shuffled_acc,own_loss,shuffled_loss"]
    lines += [
        f",{name},{speaker}_{i},{mine},{theirs},1.0,1.5"
        for name in ("clean", "mixed")
        for i, (mine, theirs) in enumerate(zip(own, shuffled, strict=True))
    ]
    (folder / "report" / "decision_value.csv").write_text("\n".join(lines) + "\n")


def test_a_run_evaluated_at_other_budgets_is_a_row_for_each(tmp_path: Path) -> None:
    write_job(tmp_path / "a", "x", "lucas", 0, [1, 1, 0, 1], [0.5, 1.0, 0.0, 0.5])
    report = tmp_path / "a" / "report"
    found = json.loads((report / "decision_value.json").read_text())
    found["budgets"] = [
        {
            "level": level,
            **{name: found[name] | {"acc": acc, "macs": 1e6, "fraction": level} for name in ("clean", "mixed")},
        }
        for level, acc in ((0.2, 0.5), (0.8, 0.75))
    ]
    (report / "decision_value.json").write_text(json.dumps(found))
    head, *lines = (report / "decision_value.csv").read_text().splitlines()
    at_budgets = [f"{level}{line}" for level in ("", "0.2", "0.8") for line in lines]
    (report / "decision_value.csv").write_text("\n".join([head, *at_budgets]) + "\n")
    rows = {row["what"]: row for row in report_study(tmp_path)}
    assert set(rows) == {"at_budget as trained", "at_budget 0.2", "at_budget 0.8", "m, all of these"}
    assert rows["at_budget as trained"]["acc"] == 0.75
    low = rows["at_budget 0.2"]
    assert (low["acc"], low["macs_m"], low["fraction"]) == (0.5, 1.0, 0.2)
    assert low["advantage clean"].value == pytest.approx((0.5 + 0 + 0 + 0.5) / 4)
    assert rows["m, all of these"]["runs"] == 1
    assert rows["m, all of these"]["acc"] == pytest.approx((0.75 + 0.5 + 0.75) / 3)


def test_jobs_that_their_names_do_not_tell_apart_all_run(tmp_path: Path, monkeypatch) -> None:
    jobs = [["data.root=/a/fsdd", "seed=0"], ["data.root=/b/fsdd", "seed=0"], ["model=dense", "seed=0"]]
    ran = []

    def run_job(job, folder: Path, threads: str, running) -> float:
        ran.append(job)
        finish(folder)
        return 1.0

    monkeypatch.setattr(runner, "run_job", run_job)
    folders = {folder.name for folder, _, _ in run_jobs(jobs, tmp_path, 1)}
    assert sorted(ran) == sorted(jobs)
    assert len(folders) == 3
    assert "model-dense_seed-0" in folders


def test_a_finished_run_of_other_words_is_not_taken_for_this_job(tmp_path: Path) -> None:
    finish(tmp_path / "seed-0")
    (tmp_path / "seed-0" / "overrides.yaml").write_text("- data.root=/a\n- seed=0\n")
    assert [done for _, done, _ in run_jobs([["data.root=/a", "seed=0"]], tmp_path, 1)] == [True]
    with pytest.raises(ValueError, match=r"seed-0 is finished, and was not made with data\.root=/b\."):
        list(run_jobs([["data.root=/b", "seed=0"]], tmp_path, 1))


def test_a_quick_study_without_its_seed_says_so() -> None:
    with pytest.raises(ConfigError, match=r"--quick runs the jobs of seed=0, and none of these 2 has it\."):
        plan(["model=dense", "seed=1,2"], quick=True)


def test_a_word_that_refers_to_another_is_compared_as_it_was_typed(tmp_path: Path) -> None:
    job = ["model.dim=${size.dim}", "seed=0"]
    (name,) = runner.job_names([job])
    finish(tmp_path / name)
    (tmp_path / name / "overrides.yaml").write_text("- model.dim=${size.dim}\n- seed=0\n")
    assert [done for _, done, _ in run_jobs([job], tmp_path, 1)] == [True]


def test_the_deviation_is_that_of_seeds_which_have_all_speakers(tmp_path: Path) -> None:
    def deviation(*runs: tuple[str, int, list[int]]) -> object:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for speaker, seed, right in runs:
            write_job(folder / f"{speaker}{seed}", "sign", speaker, seed, right, [0.0] * len(right))
        return report_study(folder)[0]["acc_sd"]

    assert deviation(("lucas", 0, [1, 1]), ("theo", 1, [0, 1])) is None
    both = deviation(("lucas", 0, [1, 1]), ("theo", 0, [0, 0]), ("lucas", 1, [1, 1]), ("theo", 1, [1, 1]))
    assert both == pytest.approx(0.5 / 2**0.5)


def test_a_seed_has_its_own_saving_and_the_table_its_compute_by_condition(tmp_path: Path) -> None:
    for seed, speaker in ((0, "lucas"), (0, "theo"), (1, "lucas"), (1, "theo"), (2, "lucas")):
        write_job(tmp_path / f"{speaker}{seed}", "sign", speaker, seed, [1, 1], [0.5, 0.5])
        path = tmp_path / f"{speaker}{seed}" / "report" / "decision_value.json"
        found = json.loads(path.read_text())
        found["mixed"]["shuffled_loss"] = 1.5 + 0.1 * seed
        path.write_text(json.dumps(found))
    (row,) = report_study(tmp_path)
    assert row["loss saved mixed by seed"].value == pytest.approx((0.5 + 0.6) / 2)  # seed 2 lacks a speaker
    heads, _, cells = (tmp_path / "study.md").read_text().splitlines()
    told = dict(zip(heads.strip("| ").split(" | "), cells.strip("| ").split(" | "), strict=True))
    assert told["compute, clean"] == "0.500"
    assert told["in noise: loss saved, interval over seeds"].startswith("+0.550 (")


def test_a_long_name_of_a_job_stays_its_own() -> None:
    job = [f"model.encoder.some_key_{i}=value" for i in range(12)]
    names = set(runner.job_names([[*job, f"seed={seed}", "experiment=x"] for seed in range(3)]))
    assert len(names) == 3
    assert all(len(name) <= 100 for name in names)
    assert runner.job_names([["model=dense", "experiment=x", "seed=1"]]) == ["model-dense_seed-1"]


def test_the_table_joins_seeds_and_speakers_and_pairs_clips(tmp_path: Path) -> None:
    write_job(tmp_path / "a", "sign", "lucas", 0, [1, 1, 0, 1], [0.5, 1.0, 0.0, 0.5])
    write_job(tmp_path / "b", "sign", "theo", 0, [1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0])
    write_job(tmp_path / "c", "off", "lucas", 0, [0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5])
    finish(tmp_path / "d", status="failed")
    rows = {row["what"]: row for row in report_study(tmp_path)}
    assert set(rows) == {"rule sign", "rule off", "m, all of these"}
    assert rows["m, all of these"]["runs"] == 3
    # lucas by clip: (0.5 - 0.5, 0 - 0.5, 0 - 0.5, 0.5 - 0.5) / 2; theo: none
    assert rows["m, all of these"]["advantage clean"].value == pytest.approx(-0.5 / 8)
    sign = rows["rule sign"]
    assert (sign["runs"], sign["acc"], sign["macs_m"], sign["seconds"]) == (2, 0.5, 2.0, 8.0)
    assert sign["advantage clean"].value == pytest.approx(1 / 8)
    assert rows["rule off"]["advantage mixed"].value == pytest.approx(-0.5)
    assert sign["loss saved clean"].value == pytest.approx(0.5)
    assert sign["time"] == pytest.approx(0.6)
    written = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert [row["what"] for row in written] == ["rule sign", "rule off", "m, all of these"]
    assert (tmp_path / "study.md").read_text().count("\n") == 5
    assert report_study(tmp_path, [tmp_path]) == list(rows.values()), "beside itself a study is counted once"


def test_thresholds_of_all_rules_are_read_from_the_metrics_and_drawn(tmp_path: Path) -> None:
    write_job(tmp_path / "a", "sign", "lucas", 0, [1, 1], [0.5, 1.0])
    write_job(tmp_path / "b", "off", "lucas", 0, [1, 1], [0.5, 1.0])
    lines = [
        {"step": 3, "gate/threshold/layer_00": 0.4, "gate/threshold/layer_01": 0.8},
        {"step": 4, "gate/open_rate/layer_00": 0.9, "gate/open_rate/layer_01": 0.3},
        {"step": 7, "gate/threshold/layer_00": 0.2},
        {"step": 8, "gate/open_rate/layer_00": 1.0, "gate/open_rate/layer_01": 0.0},
    ]
    text = "".join(json.dumps({"epoch": 0, **line}) + "\n" for line in lines)
    (tmp_path / "a" / "metrics.jsonl").write_text(text)
    gates = read_gates(tmp_path / "a")
    assert gates[THRESHOLD] == [pytest.approx((0.4, 0.6, 0.8)), pytest.approx((0.2, 0.5, 0.8))]
    assert gates[OPEN_RATE] == [pytest.approx((0.3, 0.6, 0.9)), pytest.approx((0.0, 0.5, 1.0))]
    report_study(tmp_path)
    assert (tmp_path / "thresholds.png").stat().st_size > 1000
    (tmp_path / "thresholds.png").unlink()
    (tmp_path / "a" / "metrics.jsonl").unlink()
    report_study(tmp_path)
    assert not (tmp_path / "thresholds.png").exists(), "no gates, no picture"


def test_lines_are_drawn_for_more_runs_than_there_are_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    runs = {}
    for i in range(10):
        runs[f"rule {i}"] = tmp_path / str(i)
        runs[f"rule {i}"].mkdir()
        line = {"step": 1, "epoch": 0, "gate/threshold/layer_00": 0.5, "gate/open_rate/layer_00": 0.1 * i}
        (runs[f"rule {i}"] / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert draw_thresholds(runs, tmp_path / "thresholds.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].lines}
    assert len(drawn[0].axes[0].lines) == len(looks) == 10
