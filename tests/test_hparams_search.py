"""`hparams_search=`: a sweep without -m, by validation accuracy under the compute target, best first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.report.records import read_records
from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, Command, has_plugin, tiny_folder

PLUGINS = {  # choice -> package, extra
    "hydra/sweeper=optuna": ("hydra_optuna_sweeper", "sweep"),
    "hydra/launcher=joblib": ("hydra_joblib_launcher", "sweep"),
    "hydra/launcher=submitit_slurm": ("hydra_submitit_launcher", "cluster"),
}


def trials(out: str) -> list[list[str]]:
    """The rows of the table of trials."""
    lines = out.splitlines()
    (start,) = (place for place, line in enumerate(lines) if line.startswith("Trials, best first"))
    end = next(
        place
        for place, line in enumerate(lines)
        if line.startswith(("Means over seeds", "look closer: ", "failed ")) and place > start
    )
    return [line.split() for line in lines[start + 2 : end] if line[:1].isdigit()]


def test_a_grid_runs_without_m_and_ends_with_the_best_first(command: Command, tones: Path, tmp_path: Path) -> None:
    typed = [
        "hparams_search=grid",
        "hydra/launcher=basic",
        "model=dense",
        *TINY_MODEL,
        *TINY_RUN,
        *tiny_folder(tones),
        "compute.level=0.5",
    ]
    ended = command(*typed, "optimizer.lr=0.01,0.00001", "hydra.sweep.dir=all")
    assert ended.code == 0, ended.err
    scores = [record.score for record in read_records(tmp_path / "all")]
    assert len(scores) >= 2
    shown = [float(row[5]) for row in trials(ended.out)]
    assert shown == pytest.approx(sorted((score for score in scores if score is not None), reverse=True), abs=1e-4)
    assert ended.out.splitlines()[-1].endswith("all")


@pytest.mark.parametrize("choice", PLUGINS)
def test_a_missing_plug_in_names_the_extra(choice: str) -> None:
    plugin, extra = PLUGINS[choice]
    if has_plugin(plugin):
        pytest.skip(f"{plugin} is installed")
    with pytest.raises(
        ConfigError, match=rf"needs the package {plugin.replace('_', '-')}, of the extra {extra}: .*\[{extra}\]"
    ):
        compose([choice])


def test_a_plug_in_that_no_extra_has_is_named_with_its_command() -> None:
    if has_plugin("hydra_ray_launcher"):
        pytest.skip("hydra_ray_launcher is installed")
    with pytest.raises(ConfigError, match=r"which no extra has: .* hydra-ray-launcher$"):
        compose(["hydra/launcher=ray"])


@pytest.mark.skipif(not has_plugin("hydra_optuna_sweeper"), reason="needs the extra sweep: hydra-optuna-sweeper")
@pytest.mark.filterwarnings("ignore")  # optuna 2, of what it is built on
def test_optuna_goes_by_the_score_and_survives_what_fails(command: Command, tones: Path, tmp_path: Path) -> None:
    typed = ["hparams_search=optuna", "model=learned_skip", *TINY_MODEL, *TINY_RUN, *tiny_folder(tones)]
    ended = command(*typed, "hydra.sweeper.n_trials=3", "compute.target=choice(auto,0.01)", "hydra.sweep.dir=all")
    rows = trials(ended.out)
    jobs = {job["folder"]: job for job in map(json.loads, Path("all/sweep.jsonl").read_text().splitlines())}
    assert len(rows) == len(jobs) == 3
    failed = sum(job["status"] == "failed" for job in jobs.values())
    assert ended.code == (1 if failed else 0)
    scores = [record.score for record in read_records(tmp_path / "all") if record.score is not None]
    assert len(scores) == 3 - failed
    best = OmegaConf.to_container(OmegaConf.load("all/optimization_results.yaml"))
    assert isinstance(best, dict)
    assert best["best_value"] == pytest.approx(max(scores, default=-1.0))
    assert Path("all/multirun.yaml").is_file()


@pytest.mark.skipif(not has_plugin("hydra_joblib_launcher"), reason="needs the extra sweep: hydra-joblib-launcher")
def test_jobs_side_by_side_all_reach_the_ledger(tones: Path, tmp_path: Path) -> None:
    typed = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "model=dense", *TINY_MODEL, *TINY_RUN]
    typed += [*tiny_folder(tones), "seed=0,1", "compute.target=auto,0.01", "hydra.sweep.dir=all"]
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), *typed]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    jobs = [json.loads(line) for line in (tmp_path / "all" / "sweep.jsonl").read_text().splitlines()]
    assert sorted((job["seed"], job["status"]) for job in jobs) == [
        (seed, status) for seed in (0, 1) for status in ("failed", "finished")
    ]
