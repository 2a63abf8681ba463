"""Training that a clock ends, and validation by steps: the schedule, the progress and the checkpoints follow."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hopscotch.training.schedules import CLOCK_STEPS, Cosine, Linear
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder


def typed(root: Path, *more: str) -> list[str]:
    return [*tiny_folder(root), *TINY_MODEL, *TINY_RUN, "model=dense", "hydra.run.dir=run", *more]


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_a_schedule_by_the_clock_has_the_rates_of_so_many_steps(kind: Any) -> None:
    passed, rates = [0.0], []
    for num_steps in (float("inf"), CLOCK_STEPS):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule, found = kind(optimizer, num_steps=num_steps, warmup=0.1), []
        assert schedule.is_clocked == (num_steps != CLOCK_STEPS)
        if schedule.is_clocked:
            schedule.follow(lambda: passed[0])
        optimizer.step()
        for step in range(1, CLOCK_STEPS + 1):
            passed[0] = step / CLOCK_STEPS
            schedule.step()
            found.append(schedule.get_last_lr()[0])
        assert not any(schedule.state_dict()["lr_lambdas"])  # nothing of the clock in a checkpoint
        rates.append(found)
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0][-1] == pytest.approx(0)


def test_a_clock_alone_may_end_a_training(command: Command, tones: Path) -> None:
    ended = command(*typed(tones, "trainer.max_epochs=-1", "trainer.max_time=00:00:00:01"))
    assert ended.code == 0, ended.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["kept"]["step"] >= 1


def test_validation_by_steps_goes_across_epochs(command: Command, tones: Path) -> None:
    by_steps = ["trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=5", "trainer.max_epochs=4"]
    ended = command(*typed(tones, *by_steps, "callbacks.checkpoint.monitor=val/f1", "callbacks.checkpoint.mode=max"))
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] + 1 for line in lines if line.get("val/acc") is not None] == [5, 10, 15]  # epochs have 4
    assert json.loads(Path("run/summary.json").read_text())["kept"]["monitor"] == "val/f1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1 needs trainer.max_time or trainer.max_steps"),
        (["trainer.max_epochs=0"], "trainer.max_epochs must be at least 1, or -1 for no limit, got 0"),
        (["trainer.check_val_every_n_epoch=null"], "as trainer.val_check_interval, got 1.0"),
        (
            ["trainer.max_epochs=-1", "trainer.max_time=00:00:01:00", "scheduler=one_cycle"],
            "scheduler.total_steps must be a number of steps where a clock ends the training",
        ),
    ],
)
def test_a_training_without_an_end_and_a_schedule_without_a_length_are_refused(
    words: list[str], message: str, command: Command, tones: Path
) -> None:
    ended = command(*typed(tones, *words))
    assert ended.code == 1
    assert message in ended.err
