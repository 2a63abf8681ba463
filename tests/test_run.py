"""One command, one folder: what a run leaves behind, how it ends, and what it says of bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, Trainer

import hopscotch.run
from hopscotch.build import build_callbacks
from hopscotch.plain import read_json_lines
from hopscotch.run import in_one_line
from hopscotch.system import PROJECT_ROOT
from tests.small_models import classifier
from tests.tiny import TINY_MODEL, TINY_RUN, Command, Ended, tiny_folder, write_tone, write_tones

TINY = [*TINY_MODEL, *TINY_RUN, "hydra.run.dir=run"]


MEASURED_AND_DRAWN = ("frontend.scale", "head.linear.weight")


def state(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(f"{folder}/checkpoints/best.ckpt", weights_only=True)["state_dict"]


def summary(folder: str | Path = "run") -> dict:
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("pages")
def test_a_run_leaves_its_whole_story_in_its_folder(command: Command, tones: Path, tmp_path: Path) -> None:
    typed = [*tiny_folder(tones), *TINY, "logger=tensorboard", "model=learned_skip", "trainer.max_epochs=2"]
    typed.remove("~logger")
    ended = command(*typed)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == str(tmp_path / "run")
    assert {path.name for path in Path("run").iterdir()} == {
        ".lock",
        "README.md",
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "overrides.yaml",
        "report",
        "summary.json",
        *("train", "val", "test"),  # events of TensorBoard, by split
    } | {path.name for path in Path("run").glob("events*")}
    config = yaml.safe_load(Path("run/config.yaml").read_text(encoding="utf-8"))
    assert (config["run_dir"], config["model"]["dim"]) == (str(tmp_path / "run"), 16)
    assert yaml.safe_load(Path("run/overrides.yaml").read_text(encoding="utf-8")) == [
        override for override in typed if not override.startswith("hydra.")
    ]
    names = ("best.ckpt", "last.ckpt", "previous.ckpt")
    assert {path.name for path in Path("run/checkpoints").iterdir()} == {*names, *(f"{n}.sha256" for n in names)}
    lines = read_json_lines(Path("run/metrics.jsonl"))
    tags = {"train/loss", "train/acc", "train/compute_fraction", "train/macs", "train/expected_compute"}
    tags |= {f"{stage}/{tag}" for stage in ("val", "test") for tag in ("loss", "acc", "compute_fraction", "macs")}
    assert tags <= {tag for line in lines for tag in line}
    for folder in ("run", "run/train", "run/val", "run/test"):
        assert list(Path(folder).glob("events*")) != []


def test_the_summary_holds_what_a_program_asks_for(command: Command, tones: Path) -> None:
    assert command(*tiny_folder(tones), *TINY, "model=skip_layer", "seed=3").code == 0
    found = summary()
    assert (found["status"], found["model"], found["seed"], found["epochs"]) == ("finished", "skip_layer", 3, 1)
    assert {"acc", "loss", "compute_fraction", "macs"} <= found["test"].keys()
    compute = found["compute"]
    assert compute.keys() == {"fraction", "macs", "dense_macs", "floor", "target"}
    assert compute["fraction"] == pytest.approx(found["test"]["compute_fraction"])
    assert compute["target"] == pytest.approx((compute["floor"] + 1) / 2)
    assert 0 < found["seconds"]["to_first_step"] <= found["seconds"]["total"]
    assert 0 < found["seconds"]["fit"] <= found["seconds"]["total"]
    own, dense = (found["seconds"][name] for name in ("test_clip", "test_clip_dense"))
    assert 0 < own < found["seconds"]["total"]
    assert found["time_fraction"] == own / dense
    assert found["majority_baseline"] == pytest.approx(1 / 3)
    assert 0 <= found["test"]["f1"] <= 1
    assert found["parameters"] > 0
    assert isinstance(found["warnings"], list)
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["data"]["clips"] == {"train": 15, "val": 3, "test": 3}


def test_the_primary_metric_on_training_clips_is_compared_with_that_on_test_clips(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("hopscotch.report.summary.overfitting", lambda *facts: seen.append(facts) or ["as told"])
    assert command(*tiny_folder(tones), *TINY, "model=dense").code == 0
    told = [
        line["train/acc"] for line in read_json_lines(Path("run/metrics.jsonl")) if line.get("train/acc") is not None
    ]
    train, held_out, clips, sure = seen[0][1:]
    assert (train, held_out, clips) == (pytest.approx(told[-1]), summary()["test"]["acc"], "test")
    assert sure is not None
    assert (sure.value, sure.over) == (pytest.approx(held_out), "3 clips")
    assert summary()["warnings"][-1] == "as told"


def validations(folder: str) -> dict[int, dict[str, float]]:
    """What was logged of the validation clips, by epoch."""
    return {line["epoch"]: line for line in read_json_lines(Path(folder) / "metrics.jsonl") if "val/loss" in line}


@pytest.mark.parametrize(
    ("tag", "mode", "best"), [("val/acc", "max", max), pytest.param("val/macs", "min", min, marks=pytest.mark.slow)]
)
def test_what_was_kept_is_written_down_whatever_it_is_judged_by(
    command: Command, tones: Path, tag: str, mode: str, best: Any
) -> None:
    typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=skip_transformer", "optimizer.lr=0.02"]
    typed += [f"callbacks.checkpoint.monitor={tag}", f"callbacks.checkpoint.mode={mode}"]
    assert command(*typed, "trainer.max_epochs=4", "hydra.run.dir=one").code == 0
    kept, logged = summary("one")["kept"], validations("one")
    assert kept.keys() == {"epoch", "step", "monitor", "value", "compute_fraction"}
    assert (kept["monitor"], kept["step"]) == (tag, 4 * (kept["epoch"] + 1))
    assert kept["value"] == pytest.approx(best(line[tag] for line in logged.values()))
    row = logged[kept["epoch"]]
    assert row[tag] == pytest.approx(kept["value"])
    assert row["val/compute_fraction"] == pytest.approx(kept["compute_fraction"])
    found = summary("one")
    assert (found["primary"]["name"], found["primary"]["larger_is_better"]) == ("acc", True)
    assert found["primary"]["val"] == pytest.approx(row["val/acc"])
    assert found["primary"]["test"] == found["test"]["acc"]

    # A run that goes on in a new folder, and finds nothing better, keeps what the first one kept.
    resume = ["ckpt_path=one/checkpoints/last.ckpt", "trainer.max_epochs=5", "hydra.run.dir=two"]
    assert command(*typed, *resume).code == 0
    everything = logged | validations("two")
    kept = summary("two")["kept"]
    assert kept["value"] == pytest.approx(best(line[tag] for line in everything.values()))
    assert everything[kept["epoch"]][tag] == pytest.approx(kept["value"])


def test_a_run_that_keeps_nothing_says_so(command: Command, tones: Path) -> None:
    typed = [*tiny_folder(tones), *TINY, "model=dense", "trainer.fast_dev_run=1"]
    assert command(*typed).code == 0
    assert summary()["kept"] is None
    assert not Path("run/checkpoints").exists()
    assert summary()["primary"]["val"] is None
    assert summary()["primary"]["test"] == summary()["test"]["acc"]


def test_no_dashboard_is_named_that_is_not_there(command: Command, tones: Path) -> None:
    typed = [*tiny_folder(tones), *TINY, "model=dense", "logger=csv"]
    ended = command(*(word for word in typed if word != "~logger"))
    assert ended.code == 0, ended.err
    assert "look closer" not in ended.out


def test_a_run_that_learns_by_heart_is_not_blamed_for_it(command: Command, tones: Path) -> None:
    ended = command(*tiny_folder(tones), *TINY, "model=dense", "trainer.overfit_batches=1", "trainer.max_epochs=3")
    assert ended.code == 0, ended.err
    found = summary()
    assert 0 <= found["learned_by_heart"] <= 1
    assert f"training acc       {found['learned_by_heart']:.4f}  (of the batches to learn by heart)" in ended.out
    assert not any("over-fitting" in warning for warning in found["warnings"])


def test_a_warning_is_one_line_without_the_place_in_the_code() -> None:
    place = ("our.py", 36, "    rank_zero_warn(")
    assert in_one_line(UserWarning("Cores\nare busy."), UserWarning, *place) == "warning: Cores are busy.\n"
    assert in_one_line(PossibleUserWarning("So."), PossibleUserWarning, *place) == "warning: So.\n"
    assert in_one_line("Old.", DeprecationWarning, *place).startswith("our.py:36: DeprecationWarning: Old.")


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(command: Command, tones: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("of another run\n")
    ended = command(*tiny_folder(tones), *TINY)
    assert ended.code == 1
    assert f"hydra.run.dir must be a folder without a run in it, got {tmp_path / 'run'}." in ended.err
    assert [path.read_text() for path in (tmp_path / "run").iterdir()] == ["of another run\n"]
    assert "resume" not in ended.err  # it left no checkpoint to go on from
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert f"hopscotch train resume={tmp_path / 'run'}" in command(*tiny_folder(tones), *TINY).err


def test_a_run_goes_on_from_a_checkpoint_in_a_new_folder(command: Command, tones: Path) -> None:
    typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=skip_transformer", "trainer.max_epochs=2"]
    assert command(*typed, "hydra.run.dir=one", "trainer.max_steps=4").code == 0
    ended = command(*typed, "hydra.run.dir=two", "ckpt_path=one/checkpoints/last.ckpt")
    assert ended.code == 0, ended.err
    assert (summary("one")["epochs"], summary("two")["epochs"]) == (1, 2)
    assert min(line["step"] for line in read_json_lines(Path("two/metrics.jsonl"))) == 4
    assert (
        f"ckpt_path must be a checkpoint file, got {Path('none.ckpt').absolute()}"
        in command(*typed, "hydra.run.dir=three", "ckpt_path=none.ckpt").err
    )


def test_a_checkpoint_of_another_model_is_refused_in_one_message(command: Command, tones: Path) -> None:
    typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN]
    assert command(*typed, "hydra.run.dir=one", "model=dense").code == 0
    ended = command(*typed, "hydra.run.dir=two", "model=skip_transformer", "ckpt_path=one/checkpoints/last.ckpt")
    assert ended.code == 1
    rule = "Error: ckpt_path: a run that goes on keeps what it is made of; model.name was dense and is skip_transformer"
    assert rule in ended.err
    assert "Traceback" not in ended.err
    Path("words.ckpt").write_text("no checkpoint")
    ended = command(*typed, "hydra.run.dir=three", "model=dense", "ckpt_path=words.ckpt")
    assert (
        f"Error: ckpt_path must be a checkpoint that train.py wrote, got {Path('words.ckpt').absolute()}" in ended.err
    )


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key:UserWarning")  # true, and no harm
def test_a_run_too_short_for_a_validation_ends_well(command: Command, tones: Path) -> None:
    ended = command(*tiny_folder(tones), *TINY, "model=learned_skip", "trainer.max_steps=2")
    assert ended.code == 0, ended.err
    assert summary()["status"] == "finished"


class Press(Callback):
    """Presses Ctrl-C, or sends another signal, at the second step."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.signals = signals

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            for number in self.signals:
                os.kill(os.getpid(), number)


def press(monkeypatch: pytest.MonkeyPatch, *signals: signal.Signals) -> None:
    monkeypatch.setattr(hopscotch.run, "build_callbacks", lambda cfg: [*build_callbacks(cfg), Press(*signals)])


def test_ctrl_c_ends_a_run_in_order(command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press(monkeypatch, signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    ended = command(*tiny_folder(tones), *TINY, "trainer.max_epochs=50")
    assert ended.code == 130  # as a shell reports SIGINT
    assert summary()["status"] == "stopped"
    assert summary()["warnings"] == []  # of a training that had hardly begun
    assert 0 <= summary()["test"]["acc"] <= 1
    assert max(line["step"] for line in read_json_lines(Path("run/metrics.jsonl"))) <= 4
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_its_data_are_made_leaves_a_summary(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def stopped(_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)  # until the signal arrives

    monkeypatch.setattr(hopscotch.run, "build_data", stopped)
    before = signal.getsignal(signal.SIGTERM)
    pressed = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    ended = command(*tiny_folder(tones), *TINY)
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, pressed)
    assert ended.code == 128 + number
    assert (summary()["status"], summary()["test"]) == ("stopped", None)
    assert Path("run/config.yaml").is_file()


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["twice", "terminated"])
def test_a_run_that_is_stopped_at_once_says_so(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch, signals: tuple[signal.Signals, ...]
) -> None:
    press(monkeypatch, *signals)
    monkeypatch.setattr(signal, "signal", signal.signal)
    before = signal.getsignal(signal.SIGINT)
    ended = command(*tiny_folder(tones), *TINY, "trainer.max_epochs=50")
    signal.signal(signal.SIGINT, before)
    assert ended.code == 128 + signals[0]
    assert (summary()["status"], summary()["test"], summary()["signal"]) == ("stopped", None, signals[0].name)
    assert ended.out.splitlines()[-1] == str(Path("run").absolute())


def refused(ended: Ended, rule: str) -> None:
    """One message and no traceback."""
    assert ended.code == 1
    assert rule in ended.err
    assert "Traceback" not in ended.err + ended.out
    assert len([line for line in ended.err.splitlines() if line]) == 1


def folder_with(problem: str, root: Path) -> Path:
    if problem == "one class":
        write_tone(root / "only" / "0.wav", 300, 0.2)
    if problem == "empty":
        root.mkdir()
    if problem in ("text", "unreadable", "silent header"):
        write_tones(root, 3)
    if problem == "text":
        (root / "low" / "notes.wav").write_text("not a sound\n")
    if problem == "unreadable":
        (root / "low" / "linked.wav").symlink_to(root / "nowhere.wav")
    if problem == "silent header":
        soundfile.write(root / "low" / "none.wav", np.zeros(0), 8000)
    return root


@pytest.mark.parametrize(
    ("problem", "rule"),
    [
        ("missing", "data.root must be a folder, got"),
        ("empty", "data.root must hold at least two class folders, got none"),
        ("one class", "data.root must hold at least two class folders, got only 'only'"),
        ("text", "notes.wav"),
        ("unreadable", "linked.wav"),
        ("silent header", "none.wav"),
    ],
)
def test_bad_data_ends_with_one_message(command: Command, tmp_path: Path, problem: str, rule: str) -> None:
    root = folder_with(problem, tmp_path / "clips")
    refused(command(*tiny_folder(root), *TINY), rule)
    assert not Path("run").exists()


def test_a_job_of_a_sweep_that_is_refused_keeps_its_folder_for_the_table(command: Command, tones: Path) -> None:
    refused_job = [
        "-m",
        "hydra/launcher=basic",
        "data.test_fraction=0.95",
        "hydra.sweep.dir=all",
        "hydra.sweep.subdir=job",
    ]
    command(*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, *refused_job, "~hydra.callbacks.sweep")
    assert summary("all/job")["status"] == "failed"
    assert "data.val_fraction and data.test_fraction must" in summary("all/job")["error"]


def test_a_target_out_of_reach_is_refused_before_data_are_read(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hopscotch.run, "build_data", lambda cfg: pytest.fail("data are read"))
    for data in ([], tiny_folder(tones)):
        ended = command(*data, *TINY, "model=skip_transformer", "compute.target=0.01")
        refused(ended, "compute.target must lie between the floor of skip_transformer")
        assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("model.dim=15", "model.encoder: dim must be a multiple of num_heads, got dim=15, num_heads=2."),
        (
            "model.encoder.strides=[1,0,1]",
            "every stride of strides must be a whole number of at least 1",
        ),
        (
            "model.encoder.strides=[1,1]",
            "model.encoder: strides must name one stride per layer, got [1, 1] for depth=3.",
        ),
        ("compute.target=0.7", "compute.target=0.7 has no meaning for model=dense"),
    ],
)
def test_a_bad_model_ends_with_one_message(command: Command, tones: Path, override: str, rule: str) -> None:
    refused(command(*tiny_folder(tones), *TINY, "model=dense", override), rule)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("model=learnt_skip", "Did you mean learned_skip?"),
        ("model.encoder.first=0", "model.encoder.first must be at least 1, got 0."),
    ],
)
def test_a_bad_configuration_ends_before_there_is_a_folder(
    command: Command, tones: Path, tmp_path: Path, override: str, rule: str
) -> None:
    refused(command(*tiny_folder(tones), *TINY, "model=dense", override), rule)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_ends_with_one_message(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    typed = [*tiny_folder(tones), *TINY, "trainer=gpu"]
    refused(command(*typed), "trainer.accelerator=gpu needs a CUDA device")


def test_our_own_fault_shows_its_traceback(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("our fault")

    monkeypatch.setattr(hopscotch.run, "build_model", broken)
    ended = command(*tiny_folder(tones), *TINY)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert summary()["error"] == "ZeroDivisionError: our fault"
    assert ended.out.splitlines()[-1] == str(tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_ends_a_real_process_in_order(tones: Path, tmp_path: Path) -> None:
    typed = [*tiny_folder(tones), *TINY, "trainer.max_epochs=1000", "trainer.enable_progress_bar=true"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT_ROOT / "train.py"), *typed],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, give_up = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert summary(tmp_path / "run")["status"] == "stopped"
    assert out.splitlines()[-1] == str(tmp_path / "run")


def test_the_weights_that_are_tested_are_the_best_ones(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoil(Callback):
        """The last weights are no good."""

        def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
            classifier(pl_module.model).bias.data.fill_(7.0)

        def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
            tested.append(classifier(pl_module.model).bias.detach().clone())

    tested: list[torch.Tensor] = []
    monkeypatch.setattr(hopscotch.run, "build_callbacks", lambda cfg: [*build_callbacks(cfg), Spoil()])
    assert command(*tiny_folder(tones), *TINY, "model=dense").code == 0
    assert torch.equal(tested[0], state("run")["model.head.linear.bias"])


def test_a_run_measures_its_clips_and_draws_its_weights_by_the_seed(command: Command, tones: Path) -> None:
    for seed in (0, 1):
        typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=dense", "optimizer.lr=1e-9"]
        assert command(*typed, f"hydra.run.dir=run{seed}", f"seed={seed}").code == 0
    scale, weights = ([state(f"run{seed}")[f"model.{name}"] for seed in (0, 1)] for name in MEASURED_AND_DRAWN)
    assert not torch.equal(scale[0], torch.ones_like(scale[0]))
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)
