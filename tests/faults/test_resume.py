"""A run goes on in its own folder to the same bits, with what is typed now, or is refused by name."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hopscotch.data.splits import place
from hopscotch.plain import read_json_lines
from hopscotch.resume import find_start
from hopscotch.system import lock
from hopscotch.training.whole import hash_file
from tests.faults.children import OFTEN, config, die_at, differing, start, train, wait
from tests.faults.steps import from_every_state
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder, write_tone

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("model=learned_skip", "trainer.max_epochs=3", *OFTEN)
TYPED = [*TINY_MODEL, *TINY_RUN, *WORDS]


@pytest.fixture(autouse=True)
def no_pages_of_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hopscotch.run.explain_run", lambda *_: None)


@pytest.fixture(scope="module")
def straight(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    assert train(config(tones, run, *WORDS)).code == 0
    return run


@pytest.fixture(scope="module")
def half(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in the middle of its second epoch: its last state is of step 6, the one before of 5."""
    from hopscotch.training.task import AudioTask

    run = Path()
    for _ in range(5):  # the last state has no name for a moment, while it becomes the one before: test_checkpoints.py
        run = tmp_path_factory.mktemp("half") / "run"
        ended = train(config(tones, run, *WORDS), lambda: die_at(AudioTask, "training_step", 8))
        assert ended.code == -signal.SIGKILL, ended.said
        if (run / "checkpoints" / "last.ckpt").is_file():
            break
    (run / "overrides.yaml").write_text(yaml.safe_dump([*tiny_folder(tones), *TYPED]))
    return run


@pytest.fixture
def broken(half: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half, tmp_path / "run"))


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_a_killed_run_goes_on_by_its_folder_alone(command: Command, broken: Path, straight: Path) -> None:
    assert step_of(broken / "checkpoints" / "last.ckpt") in (6, 7)  # the save of step 7 may have been on its way
    ended = command(f"resume={broken}", "hydra/hydra_logging=none")
    assert ended.code == 0, ended.err
    assert "going on from step" in ended.out
    assert differing(broken, straight) == []
    assert summary(broken)["test"] == summary(straight)["test"]
    steps = {line["step"] for line in read_json_lines(broken / "metrics.jsonl") if "train/loss" in line}
    assert steps == set(range(12))
    stored = yaml.safe_load((broken / "config.yaml").read_text())
    assert (stored["resume"], stored["resume_anyway"], stored["run_dir"]) == (None, False, str(broken))


def test_what_is_typed_now_is_used_said_and_remembered(command: Command, broken: Path) -> None:
    new = [
        "optimizer.lr=1e-5",
        "optimizer.weight_decay=0.5",
        "trainer.max_epochs=4",
        "callbacks.early_stopping.patience=7",
    ]
    ended = command(f"resume={broken}", *new)
    assert ended.code == 0, ended.err
    for key, before, now in (
        ("optimizer.lr", 0.002, 1e-05),
        ("optimizer.weight_decay", 0.05, 0.5),
        ("trainer.max_epochs", 3, 4),
        ("callbacks.early_stopping.patience", 10, 7),
    ):
        assert f"{key} was {before} and is {now}, from step " in ended.out
    assert "the learning rate at step " in ended.out
    last = torch.load(broken / "checkpoints" / "last.ckpt", weights_only=True)
    groups = last["optimizer_states"][0]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {1e-5}
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert [state["patience"] for key, state in last["callbacks"].items() if "EarlyStopping" in key] == [7]
    assert (last["global_step"], last["lr_schedulers"][0]["base_lrs"]) == (16, [1e-5] * len(groups))
    words = yaml.safe_load((broken / "overrides.yaml").read_text())
    assert set(new) <= set(words)
    assert "trainer.max_epochs=3" not in words
    assert not [word for word in words if "resume" in word]


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["model.dim=32"], "a run that goes on keeps what it is made of; model.dim was 16 and is 32"),
        (["callbacks.checkpoint.monitor=val/acc"], "callbacks.checkpoint.monitor was val/loss and is val/acc"),
        (["callbacks.average=null"], "callbacks.average._target_ was hopscotch"),
        (["optimizer=sgd"], "optimizer._target_ was torch.optim.AdamW and is torch.optim.SGD"),
        (["data.batch_size=5"], "data.batch_size was 4 and is 5. To go on all the same add resume_anyway=true."),
        (["seed=1"], "seed was 0 and is 1. To go on all the same"),
        (["hydra.run.dir=elsewhere"], "goes on in the folder of the run, without hydra.run.dir=elsewhere"),
        (["-m", "seed=0,1"], "goes on in the folder of the run, without -m"),
        (["again=latest"], "one run alone can be repeated or gone on with"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(command: Command, broken: Path, words: list[str], rule: str) -> None:
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    ended = command(f"resume={broken}", *words)
    assert ended.code == 1
    assert rule in ended.err
    assert "Traceback" not in ended.err
    after = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == {path: content for path, content in before.items() if path.name != ".lock"}


@pytest.mark.slow
def test_another_size_of_batches_is_gone_on_with_on_request(command: Command, broken: Path) -> None:
    with pytest.warns(UserWarning, match="the epoch under way is neither repeated nor completed"):
        ended = command(f"resume={broken}", "data.batch_size=5", "resume_anyway=true")
    assert ended.code == 0, ended.err


def added(root: Path) -> None:
    write_tone(root / "high" / "more.wav", 1500.0, 0.2)


def removed(root: Path) -> None:
    next(path for path in sorted((root / "low").iterdir()) if 0.1 <= place(f"low/{path.name}") < 0.9).unlink()


def exchanged(root: Path) -> None:
    one, other = sorted((root / "low").iterdir())[0], root / "other.wav"
    seconds = (one.stat().st_size - 44) / 16000
    write_tone(other, 444.0, seconds + 0.00005)
    assert other.stat().st_size == one.stat().st_size
    other.replace(one)


def longer(root: Path) -> None:
    write_tone(sorted((root / "low").iterdir())[0], 300.0, 0.5)


def swapped(root: Path) -> None:
    for before, now in (("low", "x"), ("high", "low"), ("x", "high")):
        (root / before).rename(root / now)


def renamed(root: Path) -> None:
    (root / "high").rename(root / "zenith")


def class_added(root: Path) -> None:
    shutil.copytree(root / "high", root / "another")


CLASSES = "resume must be of the same classes in the same order: it was trained on high, low, middle; the data have "
CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (added, "of 21 clips 1 new (high/more.wav)"),
    (removed, "of 21 clips 1 gone"),
    (exchanged, "of 21 clips 1 not as they were (low/"),
    (longer, "of 21 clips 1 not as they were (low/"),
    (swapped, "of 21 clips 14 new (high/"),
    (renamed, CLASSES + "low, middle, zenith."),
    (class_added, CLASSES + "another, high, low, middle."),
]


@pytest.mark.parametrize(("change", "rule"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_data_that_have_changed_are_named(
    tones: Path, broken: Path, tmp_path: Path, command: Command, change: Callable[[Path], None], rule: str
) -> None:
    root = Path(shutil.copytree(tones, tmp_path / "tones"))
    change(root)
    ended = command(f"resume={broken}", f"data.root={root}")
    assert ended.code == 1
    assert rule in ended.err
    assert rule.startswith(CLASSES) == ("resume_anyway=true" not in ended.err)


@pytest.mark.slow
def test_the_same_data_elsewhere_are_the_same(
    tones: Path, broken: Path, tmp_path: Path, straight: Path, command: Command
) -> None:
    root = Path(shutil.copytree(tones, tmp_path / "tones"))
    assert command(f"resume={broken}", f"data.root={root}").code == 0
    assert differing(broken, straight) == []


@pytest.mark.parametrize("damage", ["flipped", pytest.param("cut", marks=pytest.mark.slow), "poisoned"])
def test_the_state_before_is_taken_where_the_last_is_damaged(
    tones: Path, broken: Path, straight: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last = broken / "checkpoints" / "last.ckpt"
    step, content = step_of(last), bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    elif damage == "cut":
        last.write_bytes(content[:-100])
    else:
        found = torch.load(last, weights_only=True)
        next(iter(found["optimizer_states"][0]["state"].values()))["exp_avg"].fill_(torch.nan)
        torch.save(found, last)
        hash_file(last).unlink(missing_ok=True)  # a kill may have come before it was written
    ended = train(config(tones, broken, *WORDS))
    assert ended.code == 0, ended.said
    assert "last.ckpt" in ended.said
    assert f"The one before it is taken, previous.ckpt of step {step - 1}." in ended.said
    assert last.with_name("last.ckpt.damaged").is_file()
    assert differing(broken, straight) == []


def test_where_no_state_is_whole_the_run_is_refused(tones: Path, broken: Path) -> None:
    for path in (broken / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"has no checkpoint that is whole: .*last\.ckpt.*previous\.ckpt.*best\.ckpt"):
        find_start(config(tones, broken, *WORDS))
    shutil.rmtree(broken / "checkpoints")
    assert find_start(config(tones, broken, *WORDS)) is None  # from the beginning


def test_two_processes_never_train_in_one_folder(tones: Path, broken: Path) -> None:
    cfg = config(tones, broken, *WORDS)
    with lock(broken, "is kept by this test"):
        ended = train(cfg)
    assert ended.code == 1
    assert f"{broken} is being trained by another process" in ended.said
    assert wait(start(cfg), cfg).code == 0


def test_a_link_anywhere_in_the_folder_is_refused(tones: Path, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (broken / "train").symlink_to(tmp_path / "outside")
    ended = train(config(tones, broken, *WORDS))
    assert ended.code == 1
    assert "train must not be a symbolic link" in ended.said
    assert list((tmp_path / "outside").iterdir()) == []


def test_curves_of_tensorboard_go_on(tones: Path, tmp_path: Path) -> None:
    from hopscotch.training.task import AudioTask

    words = [word for word in WORDS if word != "~logger"]
    cfg = lambda: tensorboard(config(tones, tmp_path / "run", *words))  # noqa: E731
    assert train(cfg(), lambda: die_at(AudioTask, "training_step", 8)).code == -signal.SIGKILL
    assert train(cfg()).code == 0
    curve = EventAccumulator(str(tmp_path / "run" / "train")).Reload().Scalars("loss")
    assert [point.step for point in curve] == list(range(12))


def tensorboard(cfg: Any) -> Any:
    node = {"_target_": "hopscotch.report.split_logger.SplitLogger", "save_dir": str(cfg.run_dir)}
    cfg.logger = {"tensorboard": node}
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize("words", [("model=skip_layer", "trainer.val_check_interval=2"), ("model=always_on",)])
def test_a_run_goes_on_from_every_state_that_it_has_kept(tones: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Of all models, and of longer runs: python -m tests.faults.steps."""
    found = list(from_every_state(tones, tmp_path, (*words, "trainer.max_epochs=2")))
    assert len(found) >= 8
    assert [message for message in found if message] == []


@pytest.mark.slow
def test_a_run_that_early_stopping_has_ended_does_not_train_on(tones: Path, tmp_path: Path) -> None:
    stops = ("callbacks.early_stopping.min_delta=10", "callbacks.early_stopping.patience=1")
    words = ("model=dense", "trainer.max_epochs=5", *stops)
    assert train(config(tones, tmp_path / "run", *words)).code == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert step_of(last) == 8
    assert train(config(tones, tmp_path / "run", *words)).code == 0
    assert step_of(last) == 8
    more = (*words[:-1], "callbacks.early_stopping.patience=2")
    assert train(config(tones, tmp_path / "run", *more)).code == 0
    assert step_of(last) == 12
