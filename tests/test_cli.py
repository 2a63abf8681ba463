"""What `python train.py ...` does before there is any work: one message and exit code 1, or a job in its own folder."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hydra._internal.hydra as hydra_main
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from hopscotch.config.compose import CONF, run_hydra
from hopscotch.system import PROJECT_ROOT

NO_TABLE = "~hydra.callbacks.sweep"  # these jobs write no summary
IN_PROCESS = "hydra/launcher=basic"
Run = Callable[..., list[DictConfig]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call train.py's `run_hydra` with these arguments from an empty folder; the jobs that it started come back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra_main, "ConfigLoaderImpl", ConfigLoaderImpl)  # put back afterwards

    def call(*arguments: str) -> list[DictConfig]:
        jobs: list[DictConfig] = []

        def job(cfg: DictConfig) -> None:
            OmegaConf.resolve(cfg)  # as it reads while the job runs
            jobs.append(cfg)

        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        run_hydra(job)
        return jobs

    return call


def message_of(run: Run, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert isinstance(caught.value.code, str)  # which Python prints on stderr, and exits with 1
    return caught.value.code


def test_a_run_gets_the_folder_that_was_asked_for(run: Run, tmp_path: Path) -> None:
    (cfg,) = run("model=dense", "hydra.run.dir=my run")
    assert Path(cfg.run_dir) == tmp_path / "my run"
    assert cfg.callbacks.checkpoint.dirpath == f"{tmp_path / 'my run'}/checkpoints"
    assert list((tmp_path / "my run").iterdir()) == []  # nothing of Hydra's own in it


def test_a_run_folder_is_named_after_time_and_model(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--cfg", "hydra", "--package", "hydra.run.dir", "model=skip_layer")
    pattern = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_skip_layer_[0-9a-f]{6}"
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == PROJECT_ROOT / "outputs"
    assert re.fullmatch(pattern, folder.name)


@pytest.mark.parametrize("mistake", ["modle=dense", "trainer.max_epochs=0", "+model.encoder.max_strid=4", "data=fsdd"])
def test_a_mistake_stops_before_there_is_a_folder(run: Run, tmp_path: Path, mistake: str) -> None:
    message = message_of(run, mistake, "hydra.run.dir=here")
    assert message.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_makes_a_folder_for_each_job_in_one_folder(run: Run, tmp_path: Path) -> None:
    jobs = run("-m", "model=dense,skip_layer", "seed=1", "hydra.sweep.dir=all", IN_PROCESS, NO_TABLE)
    assert [(cfg.model.name, cfg.seed) for cfg in jobs] == [("dense", 1), ("skip_layer", 1)]
    folders = ["0_model-dense_seed-1", "1_model-skip_layer_seed-1"]
    assert [Path(cfg.run_dir) for cfg in jobs] == [tmp_path / "all" / folder for folder in folders]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("modle=dense,skip_layer", "Did you mean model?"),
        ("model=dense,skip_leyer", "Did you mean skip_layer?"),
        ("seed=0,-1", "seed must be at least 0, got -1."),
        ("+trainer.max_epoch=1,2", "Did you mean trainer.max_epochs?"),
    ],
)
def test_a_mistake_in_the_last_job_stops_a_sweep_before_the_first(
    run: Run, tmp_path: Path, mistake: str, message: str
) -> None:
    assert message in message_of(run, "-m", mistake, "hydra.sweep.dir=all", NO_TABLE)
    assert list(tmp_path.iterdir()) == []


def test_fsdd_speakers_sweeps_over_six_speakers(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--cfg", "hydra", "--package", "hydra.sweeper.params", "experiment=fsdd_speakers")
    assert "data.test_speaker: george,jackson,lucas,nicolas,theo,yweweler" in capsys.readouterr().out


def test_help_names_every_choice_and_nothing_else_of_conf(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    files = {file for file in CONF.glob("*/*.yaml") if file.parent.name != "hydra"}
    listed = re.findall(r"^  [ *] (\w+)", text.partition("Groups")[2].partition("Most used")[0], flags=re.MULTILINE)
    assert sorted(listed) == sorted(file.stem for file in files)
    assert "  * learned_skip" in text
    assert text.count("python train.py") >= 5
    assert "$" not in text


def test_help_lists_the_choices_of_a_config_folder_of_ones_own(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "size").mkdir(parents=True)
    (tmp_path / "own" / "size" / "huge.yaml").write_text("# For the cluster\nname: huge\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        run("--config-dir", "own", "--help")
    assert re.search(r"huge +For the cluster", capsys.readouterr().out)


def test_studies_run_from_the_checkout_and_are_not_listed(tmp_path: Path) -> None:
    def typed(*arguments: str) -> str:
        command = [sys.executable, str(PROJECT_ROOT / "train.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    shown = typed("--cfg", "hydra", "--package", "hydra.sweeper.params", "experiment=study_routes", "data.root=x")
    assert "model.encoder.policy.sees: first,input" in shown
    assert "study_routes" not in typed("--help")


def test_cfg_shows_what_a_run_would_do_even_where_a_key_is_still_to_be_given(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--cfg", "job", "--resolve", "data=fsdd", "trainer=gpu")
    text = capsys.readouterr().out
    assert "precision: bf16-mixed" in text
    assert "root: ???" in text
    assert "dirpath: <run folder>/checkpoints" in text


def test_tab_completion_knows_choices_and_keys(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, expected in [("model=skip_a", "model=skip_attention"), ("trainer.max_ep", "trainer.max_epochs=")]:
        monkeypatch.setenv("COMP_LINE", f"python train.py {line}")
        monkeypatch.setenv("COMP_POINT", str(len(f"python train.py {line}")))
        run("-sc", "query=bash")
        assert capsys.readouterr().out.split() == [expected]


def test_info_shows_where_the_defaults_come_from(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--info", "defaults", "model=skip_layer_plain")
    assert "model/parts/jump" in capsys.readouterr().out
