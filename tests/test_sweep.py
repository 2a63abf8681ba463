import csv
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from hopscotch.report.records import Record, read_records
from hopscotch.report.summary import Status, write_summary
from hopscotch.sweep import JOBS, SweepTable, append_ledger, jobs_table, planned_overrides, report_sweep

PLAN = ("model=dense,learned_skip", "seed=0,1")


def config(folder: Path, task: Sequence[str] = PLAN) -> DictConfig:
    return OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(folder)},
                "overrides": {"task": list(task)},
                "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None},
            }
        }
    )


def make_job(
    sweep: Path, number: int, model: str, seed: int, *, accuracy: float | None, status: Status = "finished"
) -> None:
    """What train.py leaves behind: a folder with a summary, and a line in the ledger."""
    overrides = [f"model={model}", f"seed={seed}"]
    name = f"{number}_{model}_{seed}"
    test = None if accuracy is None else {"acc": accuracy}
    compute = None if accuracy is None else {"fraction": 0.5, "macs": 2e6, "dense_macs": 4e6, "floor": 0.4}
    write_summary(
        sweep / name, status=status, model=model, seed=seed, test=test, compute=compute, seconds={"total": 10.0}
    )
    append_ledger(sweep, {"folder": name, "overrides": overrides, "status": status})


def full_sweep(sweep: Path) -> None:
    for number, (model, seed) in enumerate([("dense", 0), ("dense", 1), ("learned_skip", 0), ("learned_skip", 1)]):
        make_job(sweep, number, model, seed, accuracy=0.9 + 0.02 * seed)


def test_all_jobs_and_their_means_are_printed_with_the_folder_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full_sweep(tmp_path)
    SweepTable().on_multirun_end(config(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["1", "dense", "1", "finished", "0.9200", "0.5000", "2.00", "10.0"] in rows
    assert ["2", "learned_skip", "2", "0.9100", "0.0141", "0.500", "2.000", "yes"] in rows
    assert lines[-2] == f"look closer: {tmp_path / 'index.html'}"
    assert lines[-1] == str(tmp_path)


def test_frontier_is_written_as_table_and_picture(tmp_path: Path) -> None:
    full_sweep(tmp_path)
    report_sweep(tmp_path, read_records(tmp_path))
    with (tmp_path / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["test_acc"] for row in rows] == ["0.9", "0.92", "0.9", "0.92"]
    assert rows[2]["folder"] == "2_learned_skip_0"
    assert (tmp_path / "frontier.png").stat().st_size > 5000


def test_a_failed_job_stays_in_the_table_and_ends_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full_sweep(tmp_path)
    make_job(tmp_path, 1, "dense", 1, accuracy=None, status="failed")
    with pytest.raises(SystemExit) as end:
        SweepTable().on_multirun_end(config(tmp_path))
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "1 of 4 jobs failed or never ended" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "dense", "1", "failed"] in [row[:4] for row in rows]
    assert [row[:3] for row in rows if "yes" in row or "no" in row] == [["1", "learned_skip", "2"], ["2", "dense", "1"]]
    assert "3 of 4 jobs have finished" in out


def test_jobs_that_never_started_or_were_killed_are_shown_as_such(tmp_path: Path) -> None:
    make_job(tmp_path, 0, "dense", 0, accuracy=0.9)
    killed = tmp_path / "1_dense_1"
    killed.mkdir()
    (killed / "overrides.yaml").write_text("- model=dense\n- seed=1\n")
    jobs = read_records(tmp_path, planned_overrides(config(tmp_path)))
    assert [(job.model, job.seed, job.status) for job in jobs] == [
        ("dense", "0", "finished"),
        ("dense", "1", "no summary"),
        ("learned_skip", "0", "never started"),
        ("learned_skip", "1", "never started"),
    ]


def test_jobs_are_ordered_by_number_not_by_letter(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        make_job(tmp_path, number, "dense", number, accuracy=0.9)
    assert [job.seed for job in read_records(tmp_path)] == ["1", "2", "10"]


def test_other_overrides_keep_groups_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, dim in enumerate((32, 64)):
        compute = {"fraction": 0.5, "macs": 2e6}
        write_summary(
            tmp_path / str(number), status="finished", model="dense", seed=0, test={"acc": 0.5}, compute=compute
        )
        overrides = ["model=dense", f"model.dim={dim}"]
        append_ledger(tmp_path, {"folder": str(number), "overrides": overrides, "status": "finished"})
    report_sweep(tmp_path, read_records(tmp_path))
    out = capsys.readouterr().out
    assert out.count("model.dim=32") == out.count("model.dim=64") == 2  # by job and by row


def test_the_table_shows_what_tells_jobs_apart_and_why_one_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, strides in enumerate(["[4,2]", "[a,b]"]):
        write_summary(tmp_path / str(number), status="failed", model="dense", seed=0, error=f"strides were {strides}")
        overrides = ["trainer=smoke", f"model.encoder.strides={strides}"]
        append_ledger(tmp_path, {"folder": str(number), "overrides": overrides, "status": "failed"})
    report_sweep(tmp_path, read_records(tmp_path))
    out = capsys.readouterr().out
    assert "model.encoder.strides=[a,b]" in out
    assert "trainer=smoke" not in out
    assert "failed 1: strides were [a,b]" in out


def test_nothing_is_planned_where_a_sampler_decides(tmp_path: Path) -> None:
    asked = config(tmp_path)
    asked.hydra.sweeper["_target_"] = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    assert planned_overrides(asked) == []
    assert planned_overrides(config(tmp_path)) == [
        ["model=dense", "seed=0"],
        ["model=dense", "seed=1"],
        ["model=learned_skip", "seed=0"],
        ["model=learned_skip", "seed=1"],
    ]


def test_ledger_has_one_line_per_job(tmp_path: Path) -> None:
    full_sweep(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert [line["folder"] for line in lines] == ["0_dense_0", "1_dense_1", "2_learned_skip_0", "3_learned_skip_1"]


def append_many(folder: str, writer: int) -> None:
    for number in range(20):
        append_ledger(folder, {"folder": f"{writer}_{number}", "overrides": ["x" * 20_000], "status": "finished"})


@pytest.mark.slow
def test_jobs_that_end_together_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    """As with hydra/launcher=joblib; lines longer than any buffer."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(str(tmp_path), writer)) for writer in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    lines = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert {line["folder"] for line in lines} == {f"{writer}_{number}" for writer in range(2) for number in range(20)}


def test_hydra_lets_the_exit_code_pass(tmp_path: Path) -> None:
    """Of a callback's ordinary exceptions Hydra makes warnings."""
    program = (
        "import sys; from hydra._internal.callbacks import Callbacks\n"
        "from omegaconf import DictConfig, OmegaConf\n"
        "callbacks = Callbacks(OmegaConf.create({'hydra': {'callbacks': {'sweep': "
        "{'_target_': 'hopscotch.sweep.SweepTable'}}}}))\n"
        "heavy = {'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "callbacks.on_multirun_end(OmegaConf.create(eval(sys.argv[1])))\n"
    )
    asked = OmegaConf.to_container(config(tmp_path, task=["seed=0,1"]))
    command = [sys.executable, "-c", program, repr(asked)]
    source = Path(__file__).parent.parent / "src"
    done = subprocess.run(command, env={"PYTHONPATH": str(source)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path)
    assert "never started" in done.stdout


def test_trials_stand_best_first_and_those_without_a_score_last() -> None:
    scores = {"0_a": 0.2, "1_b": None, "2_c": 0.9, "3_d": -0.1}
    records = [
        Record(Path(name), "dense", "0", (), "finished", score=score, folder=name) for name, score in scores.items()
    ]
    table = jobs_table(records, JOBS, search=True)
    assert [row[0] for row in table.rows] == ["2", "0", "3", "1"]
    place = table.head.index("score")
    assert [row[place] for row in table.rows] == ["0.9000", "0.2000", "-0.1000", ""]


def test_a_sweep_of_another_metric_is_told_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, value in enumerate((0.2, 0.3)):
        write_summary(
            tmp_path / str(number),
            status="finished",
            model="dense",
            seed=number,
            test={"mae": value},
            compute={"fraction": 0.5, "macs": 2e6},
            primary={"name": "mae", "larger_is_better": False, "val": 0.1, "test": value},
        )
    report_sweep(tmp_path, read_records(tmp_path))
    assert "test mae" in capsys.readouterr().out
    assert "test_mae" in (tmp_path / "frontier.csv").read_text().splitlines()[0].split(",")
    (row,) = csv.DictReader((tmp_path / "groups.csv").read_text().splitlines())
    assert (row["mae"], row["mae_low"]) == ("0.25", "0.2")
    assert "| test mae |" in (tmp_path / "groups.md").read_text().splitlines()[0]
