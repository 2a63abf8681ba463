"""On one's own command line and in one's own folder anything that can be imported works; what is wrong is named."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hopscotch.build import make_trainer
from hopscotch.config.absent import PACKAGES
from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.config.monitors import LOGGED, refuse_unlogged
from hopscotch.config.targets import arguments
from hopscotch.doctor import is_installed
from hopscotch.evaluate import evaluate
from hopscotch.report.progress import quiet_lightning
from hopscotch.system import PROJECT_ROOT, commit
from hopscotch.training.schedules import Constant, Cosine, Linear
from tests.tiny import TINY_MODEL, TINY_RUN, Command, build, fit, tiny_config, tiny_folder

MINE = """
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.optim.lr_scheduler import LambdaLR

from hopscotch.models.stack import Stack

SEEN = []

class Heard(Callback):
    def __init__(self, word):
        self.word = word
    def on_train_batch_end(self, *_):
        SEEN.append(self.word)

class Kept(Logger):
    name = version = "kept"
    def __init__(self, prefix):
        self.prefix = prefix
    def log_hyperparams(self, params, *_, **__):
        SEEN.append(params["model"]["name"])
    def log_metrics(self, metrics, step=None):
        SEEN.extend(self.prefix + tag for tag in metrics)

class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        SEEN.append(len(self.param_groups))
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(group["lr"] * weight.grad.sign())
        return loss

class Halving(LambdaLR):
    def __init__(self, optimizer, num_steps, least):
        SEEN.append(num_steps)
        super().__init__(optimizer, lambda step: max(least, 0.5**step))

class Mine(Stack):
    def __init__(self, *, word, **rest):
        super().__init__(**rest)
        SEEN.append(word)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module outside the package, and a folder of configuration beside it."""
    own = tmp_path / "project"
    (own / "conf" / "scheduler").mkdir(parents=True)
    (own / "mine.py").write_text(MINE)
    (own / "conf" / "scheduler" / "halving.yaml").write_text(
        "# Half of it, each step\n_target_: mine.Halving\nnum_steps: auto\nleast: 0.01\ninterval: step\n"
    )
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    yield mine
    del sys.modules["mine"]


def typed(tones: Path, *more: str) -> list[str]:
    return [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=dense", "hydra.run.dir=run", *more]


def logged(tag: str) -> list[float]:
    lines = map(json.loads, Path("run", "metrics.jsonl").read_text().splitlines())
    return [line[tag] for line in lines if tag in line]


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["+callbacks.mine._target_=mine.Heard", "+callbacks.mine.word=hello"], ["hello"] * 4),
        (["optimizer._target_=mine.Sign", "~optimizer.betas", "~optimizer.fused"], [2] * 4),
        (["scheduler=halving", "scheduler.least=0.25"], [4]),
        (
            ["model.encoder._target_=mine.Mine", "+model.encoder.word=hello"],
            ["hello"] * 2,
        ),  # to check it, and to train it
    ],
    ids=["callback", "optimizer", "scheduler", "encoder"],
)
def test_a_class_of_ones_own_is_used(
    words: list[str], seen: list[Any], mine: Any, command: Command, tones: Path
) -> None:
    ended = command("--config-dir=project/conf", *typed(tones, *words))
    assert ended.code == 0, ended.err
    assert seen == mine.SEEN
    if "scheduler=halving" in words:
        assert logged("lr") == pytest.approx([2e-3, 1e-3, 5e-4, 5e-4])


def test_a_run_with_an_optimizer_of_ones_own_is_evaluated_where_it_is_trusted(
    mine: Any, command: Command, tones: Path
) -> None:
    ended = command(*typed(tones, "optimizer._target_=mine.Sign", "~optimizer.betas", "~optimizer.fused"))
    assert ended.code == 0, ended.err
    with pytest.raises(ValueError, match=r"names mine\.Sign at optimizer\._target_, .* trust=<module> allows"):
        evaluate(Path("run"))
    found = json.loads((evaluate(Path("run"), trust=["mine"]) / "metrics.json").read_text())
    assert found["acc"] == json.loads(Path("run", "summary.json").read_text())["test"]["acc"]


def test_a_logger_of_ones_own_gets_every_number_and_the_configuration(mine: Any, command: Command, tones: Path) -> None:
    ended = command(*typed(tones, "+logger.mine._target_=mine.Kept", "+logger.mine.prefix=my_"))
    assert ended.code == 0, ended.err
    assert mine.SEEN[0] == "dense"
    assert {"my_train/loss", "my_lr", "my_gradient_norm", "my_val/acc", "my_test/acc"} <= set(mine.SEEN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+callbacks.mine._target_=mine.Heard", "+callbacks.mine.wrod=x"], "no key callbacks.mine.wrod. Did you mean"),
        (["+callbacks.mine._target_=mine.Herd"], "_target_ must name what can be imported; mine.Herd is not there"),
        (["+callbacks.mine._target_=mine.SEEN"], "_target_ must name a class or function, got mine.SEEN, which is"),
        (["+callbacks.mine.word=x"], "there is no key callbacks.mine"),
        (["optimizer._target_=mine.Sign", "~optimizer.betas"], "there is no key optimizer.fused."),
        (["scheduler=halving", "+scheduler.lest=1"], "no key scheduler.lest. Did you mean scheduler.least?"),
        (["+trainer.benchmrk=true"], "no key trainer.benchmrk. Did you mean trainer.benchmark?"),
        (["trainer.benchmark=true"], "A further argument is added with a plus: +trainer.benchmark=true"),
        (["+trainer.logger=true"], "there is no key trainer.logger."),
        (["+optimizer.dampening=0.1"], "there is no key optimizer.dampening."),
        (["+callbacks.early_stopping.verbos=true"], "Did you mean callbacks.early_stopping.verbose?"),
        (["callbacks.checkpoint.monitor=val/mae"], "callbacks.checkpoint.monitor must be one of val/loss, val/acc,"),
        (["callbacks.early_stopping.monitor=val/macro_f1"], "got val/macro_f1. Did you mean val/macs?"),
        (["scheduler=plateau", "scheduler.monitor=loss"], "scheduler.monitor must be one of val/loss,"),
        (["scheduler.num_steps=0"], "scheduler.num_steps must be auto, or a whole number, at least 1, got 0."),
        (["~scheduler"], "scheduler must be given"),
        (["task.optimizer.lr=1"], "task.optimizer.lr is now optimizer.lr."),
    ],
)
@pytest.mark.usefixtures("mine")
def test_what_is_wrong_leaves_no_folder(words: list[str], message: str, command: Command, tones: Path) -> None:
    ended = command("--config-dir=project/conf", *typed(tones, *words))
    assert ended.code == 1
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not Path("run").exists()


def test_any_argument_of_the_trainer_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    words = ["trainer=cpu", "trainer.deterministic=false", "+trainer.benchmark=true", "+trainer.min_epochs=3"]
    trainer = make_trainer(compose(words).trainer, logger=False)
    assert torch.backends.cudnn.benchmark is True
    assert trainer.min_epochs == 3


def test_lightning_s_own_callbacks_and_arguments_can_be_added(command: Command, tones: Path) -> None:
    monitor = "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    ended = command(*typed(tones, monitor, "+callbacks.checkpoint.every_n_epochs=1", "+optimizer.amsgrad=true"))
    assert ended.code == 0, ended.err
    assert logged("lr-AdamW/pg1") == pytest.approx(logged("lr"))


@pytest.mark.parametrize("name", sorted(PACKAGES.values()))
def test_a_logger_whose_package_is_missing_says_what_installs_it(name: str, command: Command, tones: Path) -> None:
    if is_installed(name):
        pytest.skip(f"{name} is installed")
    words = [word for word in typed(tones, f"logger={name}") if word != "~logger"]
    ended = command(*words)
    assert ended.code == 1
    assert ended.err == (
        f"logger={name} needs the package {name}, of the extra {name}: "
        f'python -m pip install -e ".[{name}]" -c constraints.txt\n'
    )
    assert not Path("run").exists()
    assert compose([f"logger={name}"]).logger[name]._target_.endswith("Logger")


def test_arguments_are_looked_for_where_a_class_hands_them_on() -> None:
    class Open(torch.optim.SGD):
        def __init__(self, own: int, **rest: Any) -> None: ...

    class Empty: ...

    def anything(**rest: Any) -> None: ...

    found = arguments(Open)
    assert found is not None
    assert {"own", "momentum", "lr"} <= found
    assert arguments(Empty) == set()
    assert arguments(anything) is None


@pytest.mark.parametrize("kind", [Cosine, Linear, Constant])
def test_a_schedule_rises_to_the_peak_and_falls_as_it_says(kind: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = kind(optimizer, num_steps=10, warmup=0.2), []
    for _ in range(12):  # longer than was said: it stays where it came to
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    cosine = [1, 0.9619398, 0.8535534, 0.6913417, 0.5, 0.3086583, 0.1464466, 0.0380602, 0, 0]
    rest = {Cosine: cosine, Linear: [1 - i / 8 for i in range(9)] + [0], Constant: [1] * 10}
    assert rates == pytest.approx([0.5, 1, *rest[kind]], abs=1e-7)


def test_everything_that_can_be_monitored_is_logged(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, "model=dense")
    task, data = build(cfg)
    assert sorted(task.tags) == sorted(LOGGED[cfg.task._target_])
    assert set(task.tags) <= set(fit(cfg, built=(task, data)).callback_metrics)


def test_a_monitor_of_a_task_of_ones_own_is_checked_before_training() -> None:
    cfg = compose(["callbacks.early_stopping.monitor=val/f1"])
    with pytest.raises(ConfigError, match=r"^callbacks\.early_stopping\.monitor must be one of val/loss, val/mae, got"):
        refuse_unlogged(cfg, ["val/loss", "val/mae"])


@pytest.mark.parametrize(
    ("words", "monitor"),
    [
        ([], "val/loss"),
        (["task=tag"], "val/loss"),
        (["task=detect"], "val/miss_2"),
        (["task=detect", "callbacks.checkpoint.monitor=val/event_f1"], "val/event_f1"),
    ],
)
def test_checkpoint_early_stopping_and_plateau_follow_what_the_task_is_judged_by(
    words: list[str], monitor: str
) -> None:
    cfg = compose([*words, "scheduler=plateau", "callbacks=quiet"])
    assert (cfg.callbacks.checkpoint.monitor, cfg.callbacks.early_stopping.monitor) == (monitor, monitor)
    assert cfg.scheduler.monitor == ("val/miss_2" if "task=detect" in words else "val/loss")
    assert {cfg.callbacks.checkpoint.mode, cfg.callbacks.early_stopping.mode, cfg.scheduler.mode} == {"min"}


def test_a_callback_of_ones_own_may_log_what_is_monitored(mine: Any) -> None:
    words = ["+callbacks.mine._target_=mine.Heard", "+callbacks.mine.word=x", "callbacks.checkpoint.monitor=my/own"]
    assert compose(words).callbacks.checkpoint.monitor == "my/own"


@pytest.mark.parametrize("monitor", ["val/f1", "train/loss", "val/macs"])
def test_the_best_checkpoint_follows_what_is_monitored(monitor: str, command: Command, tones: Path) -> None:
    stops = f"callbacks.early_stopping.monitor={monitor}"
    ended = command(*typed(tones, f"callbacks.checkpoint.monitor={monitor}", stops))
    assert ended.code == 0, ended.err
    kept = json.loads(Path("run", "summary.json").read_text())["kept"]
    assert kept["monitor"] == monitor
    assert kept["value"] in logged(monitor)


def test_rate_gradient_and_commit_are_logged(command: Command, tones: Path) -> None:
    words = [word for word in typed(tones, "trainer.gradient_clip_val=1e-3") if word != "~logger"]
    ended = command(*words)
    assert ended.code == 0, ended.err
    assert logged("lr") == pytest.approx([2e-3, 2e-3, 1.5e-3, 5e-4])
    norms = logged("gradient_norm")
    assert len(norms) == 4
    assert min(norms) > 0.1  # as it was before clipping
    events = EventAccumulator("run")
    events.Reload()
    assert [event.value for event in events.Scalars("gradient_norm")] == pytest.approx(norms)
    assert {"lr", "gradient_norm"} <= set(events.Tags()["scalars"])
    assert json.loads(Path("run", "summary.json").read_text())["commit"] == commit()


@pytest.mark.skipif(not (PROJECT_ROOT / ".git").exists(), reason="no git checkout")
def test_the_commit_is_git_s() -> None:
    said = subprocess.run(["git", "-C", PROJECT_ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit() == said.stdout.strip()


def test_a_commit_is_found_wherever_git_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hopscotch.system.PROJECT_ROOT", tmp_path)
    assert commit() is None
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs with: peeled\nabc refs/heads/main2\ndef refs/heads/main\n")
    assert commit() == "def"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text("123\n")
    assert commit() == "123"
    (git / "HEAD").write_text("456\n")
    assert commit() == "456"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["debug=profiler"], "run_training_batch"),
        (["trainer.profiler=advanced"], "Profile stats for: "),
    ],
)
def test_a_profiler_prints_its_table_and_keeps_it(words: list[str], line: str, command: Command, tones: Path) -> None:
    ended = command(*typed(tones, *words))
    assert ended.code == 0, ended.err
    assert "FIT Profiler Report" in ended.out
    assert line in ended.out
    assert max(map(len, ended.out.splitlines())) <= 200
    kept = Path("run", "profile", "fit-profile.txt").read_text()
    assert "FIT Profiler Report" in kept
    assert line in kept


def test_what_lightning_says_reaches_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process without pytest
    quiet_lightning()
    logging.getLogger("lightning.pytorch.callbacks.early_stopping").info("Metric val/loss improved.")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: False, used: False")
    logging.getLogger("somebody.else").info("hello")
    assert capsys.readouterr().err == "Metric val/loss improved.\n"
