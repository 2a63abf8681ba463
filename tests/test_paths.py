"""Paths as people type them, through the real command line, and in every command after it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hopscotch.cli import main
from hopscotch.config import compose as composing
from hopscotch.config.absent import refuse_absent_paths
from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.config.typed import PATHS, Again, in_order, prepare
from hopscotch.plain import read_config, read_json, read_yaml
from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder, write_tones

NAMES = ["ünï", "a (b)", "a&b", "a,b", "a=b", "it's", "[x] {y}", "#1 100% $x", "0.10", "null and void", "日本", 'a"b']


@pytest.mark.parametrize("name", NAMES)
def test_a_path_comes_through_as_it_was_typed_and_is_recorded_as_absolute(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose(["data=folder", f"data.root={name}", f"ckpt_path=in/{name}", "model=dense"])
    assert (cfg.data.root, cfg.ckpt_path) == (f"{tmp_path}/{name}", f"{tmp_path}/in/{name}")
    assert compose([f"data.cache_dir={name}"]).data.cache_dir == f"{tmp_path}/{name}"
    words = [f"{key}=x/{name}" for key in PATHS]
    assert prepare(prepare(words)) == prepare(words)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose(["data=folder", "data.root=~/x"]).data.root == f"{tmp_path}/x"
    assert in_order(["--config-dir=~/own", "--config-dir", "~/own"]) == [
        f"--config-dir={tmp_path}/own",
        "--config-dir",
        f"{tmp_path}/own",
    ]


def test_what_is_no_path_stays_what_it_is() -> None:
    assert compose(["ckpt_path=null", "data.cache_dir=null"]).ckpt_path is None
    assert prepare(["model.dim=a b,c", "data.root=${oc.env:HOME}/x", 'data.root="~/x"']) == [
        "model.dim=a b,c",
        "data.root=${oc.env:HOME}/x",
        'data.root="~/x"',
    ]


def test_manifests_are_recorded_by_absolute_paths_and_a_pattern_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose(["data=manifest", "data.manifest.train=a b.json", "data.manifest.test=~/c.json"])
    assert (cfg.data.manifest.train, cfg.data.manifest.val) == (f"{tmp_path}/a b.json", None)
    assert compose(["data=manifest", "data.manifest=a.json"]).data.manifest == f"{tmp_path}/a.json"
    pattern = r"data.group_by=^[^/]+/([a-z]+)_\d{2}"
    assert compose(["data=folder", "data.root=x", pattern]).data.group_by == pattern.partition("=")[2]


def test_a_root_that_is_to_be_fetched_need_not_be_there() -> None:
    refuse_absent_paths(compose(["data=speech_commands", "data.root=nowhere", "data.fetch=true"]))
    with pytest.raises(ValueError, match=r"data\.root must be a folder, got .*nowhere, which does not exist"):
        refuse_absent_paths(compose(["data=speech_commands", "data.root=nowhere"]))


def test_a_comma_parts_the_values_of_a_sweep_unless_a_folder_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_order(["-m", "data.root=a,b"]) == ["-m", "data.root=a,b"]
    assert in_order(["-m", "data.root=~/a,ünï"]) == ["-m", 'data.root="~/a","ünï"']
    (tmp_path / "a,b").mkdir()
    assert in_order(["data.root=a,b", "-m"]) == ["-m", 'data.root="a,b"']
    assert in_order(["data.root=c,d"]) == ['data.root="c,d"']


def test_flags_may_stand_anywhere() -> None:
    words = ["data=folder", "-m", "model=a,b", "--config-dir", "a=b", "seed=0,1"]
    assert in_order(words) == ["-m", "--config-dir", "a=b", "data=folder", "model=a,b", "seed=0,1"]
    assert in_order(["help"]) == ["--help"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "3"], "--epochs: there is no such flag. Keys have no dashes: trainer.max_epochs=3."),
        (["--batch-size=8"], "Keys have no dashes: data.batch_size=8."),
        (["model=dense", "hepl"], "hepl: an override must be key=value, such as trainer.max_epochs=3."),
    ],
)
def test_the_grammar_of_other_programs_is_answered(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        in_order(words)
    assert message in str(caught.value)


def test_every_path_of_the_list_works_in_training_and_in_the_commands_after_it(
    command: Command, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training in the folder of one name each would take a minute: one name has the signs of all."""
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "ünï a (b) a&b a,b a=b it's"
    shutil.copytree(tones, tmp_path / name)
    tiny = [*TINY_MODEL, *TINY_RUN, "data=folder", "data.sample_rate=8000", "data.batch_size=4", "model=dense"]
    ended = command(*tiny, f"data.root={name}", f"hydra.run.dir=~/runs {name}/one", "hydra.job.chdir=true")
    assert ended.code == 0, ended.err
    run = tmp_path / f"runs {name}" / "one"
    assert read_config(run / "config.yaml")["data"]["root"] == str(tmp_path / name)
    assert f'data.root="{name}"' in read_yaml(run / "overrides.yaml")
    ckpt = f"ckpt_path=runs {name}/one/checkpoints/last.ckpt"
    ended = command(*tiny, f"data.root=~/{name}", "trainer.max_epochs=2", ckpt, f"hydra.run.dir=runs {name}/two")
    assert ended.code == 0, ended.err
    ended = command(
        *tiny,
        f"data.root={name}",
        "-m",
        "hydra/launcher=basic",
        f"hydra.sweep.dir=~/sweep {name}",
        "seed=1",
        "hydra.sweep.subdir=x (a), b=c",
    )
    assert ended.code == 0, ended.err
    assert (tmp_path / f"sweep {name}" / "x (a), b=c" / "summary.json").is_file()
    monkeypatch.chdir("/")
    main(["evaluate", f"run=~/runs {name}/one", f"data.root=~/{name}", f"out=~/out {name}"])
    assert (tmp_path / f"out {name}" / "metrics.json").is_file()
    main(["evaluate", str(run), f"ckpt=~/runs {name}/two/checkpoints/last.ckpt", "data=folder", f"data.root=~/{name}"])
    main(["sweep", f"~/sweep {name}", f"beside=~/runs {name}"])
    capsys.readouterr()
    main(["report", str(run)])  # from another folder than that of training
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=folder", "data.root=nope"], "nope, which does not exist."),
        (["data=fsdd", "data.root=a,b"], "a,b, which does not exist; several folders, parted by commas, need -m."),
        (["ckpt_path=nope.ckpt"], "nope.ckpt, which is not there."),
        (["data=table", "data.table=nope.csv"], "nope.csv, which is not there."),
        (["data=manifest", "data.manifest=nope.json"], "data.manifest must be a file, got "),
        (["data=manifest", "data.manifest.val=nope.json"], "data.manifest.val must be a file, got "),
    ],
)
def test_what_is_not_there_is_named_before_torch_is_imported_and_leaves_no_folder(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", *words, "hydra.run.dir=run"])
    monkeypatch.setattr(composing.hydra_main, "ConfigLoaderImpl", composing.hydra_main.ConfigLoaderImpl)
    with pytest.raises(SystemExit) as caught:  # the task, which imports torch, is not called
        composing.run_hydra(lambda cfg: pytest.fail("the task is called"))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_repeated_from_its_folder(command: Command, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").symlink_to(tones)
    typed = [*tiny_folder(Path("clips")), *TINY_MODEL, *TINY_RUN, "model=learned_skip", "seed=3", "compute.target=0.95"]
    assert command(*typed, "hydra.run.dir=one").code == 0
    ended = command(f"again={tmp_path / 'one'}", "hydra.run.dir=two")
    assert ended.code == 0, ended.err
    one, two = (read_json(tmp_path / run / "summary.json") for run in ("one", "two"))
    assert one["test"] == two["test"]
    configs = [read_config(tmp_path / run / "config.yaml") for run in ("one", "two")]
    for config in configs:
        config.pop("run_dir")
        config.pop("callbacks")
    assert configs[0] == configs[1]
    text = (tmp_path / "one" / "config.yaml").read_text()
    (tmp_path / "one" / "config.yaml").write_text(text.replace("max_stride: 4", "max_stride: 3"))
    ended = command(f"again={tmp_path / 'one'}", "hydra.run.dir=three")
    assert "conf/ has changed, model.encoder.max_stride was 3 and is 4. Type model.encoder.max_stride=3" in ended.err
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    "word",
    [
        "+callbacks.x._target_=os.system",
        "task.optimizer._target_=hopscotch.system.outputs",
        "callbacks.checkpoint.dirpath=here",
        "callbacks.checkpoint.filename=/etc/x",
        "data.test_speaker=${oc.env:SECRET}",
        "--config-dir=own",
    ],
)
def test_the_words_of_a_strangers_run_name_neither_class_nor_path(word: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: x\n")
    (tmp_path / "overrides.yaml").write_text(f"- '{word}'\n")
    with pytest.raises(ValueError, match="names neither a class nor a path"):
        Again([f"again={tmp_path}"]).words()


def test_a_training_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    write_tones(tmp_path / "clips")
    words = [*tiny_folder(tmp_path / "clips"), *TINY_MODEL, *TINY_RUN, "model=dense", "hydra.run.dir=run"]
    words += ["trainer.enable_progress_bar=true", "trainer.max_epochs=4"]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT_ROOT / "train.py"), *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=err,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        process.stdout.close()  # as head does after its last line
        assert process.wait(timeout=120) == 0
    assert "Broken" not in (tmp_path / "err").read_text()
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "finished"
