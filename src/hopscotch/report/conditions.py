"""Pass over the test clips again and again: at every budget, in every noise."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from lightning.pytorch import Trainer
from rich.console import Console
from torch import Tensor

from hopscotch.data.batches import KeyedLoader
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.progress import with_progress
from hopscotch.report.budgets import BudgetPoint
from hopscotch.report.metrics import ScoreCollector, macro_f1
from hopscotch.report.traces import Evaluation
from hopscotch.tasks.adaptation import with_noise
from hopscotch.tasks.base import AudioTask
from hopscotch.tasks.budget import calibrate
from hopscotch.types import AudioBatch


class Condition(NamedTuple):
    """What one pass came to."""

    condition: str  # "clean", or the level of the noise
    snr_db: float | None
    requested: float | None  # compute.budget; None: as trained
    calibrated: float | None  # what the validation clips came to under that budget
    fraction: float  # of the test clips
    macs: float  # mean per test clip
    acc: float
    f1: float  # mean over classes


class Pass(NamedTuple):
    condition: Condition
    evaluation: Evaluation
    logits: Float[Tensor, "clip classes"]  # in the order of the evaluation
    logged: dict[str, float]  # by the task, as at the end of training: loss, acc, ...


def passes(
    task: AudioTask, data: AudioDataModule, trainer: Trainer, budgets: Sequence[float | None], snr_db: Sequence[float]
) -> Iterator[Pass]:
    """For each budget the clips as they are, then in noise of each level; the model is afterwards as it was.

    The test is Lightning's, as at the end of training, so that its figures are the same to the last digit.
    """
    collector = ScoreCollector()
    trainer.callbacks.append(collector)  # pyright: ignore[reportAttributeAccessIssue]
    bias = task.model.decision_bias.clone()
    for budget in budgets:
        calibrated = None
        if budget is not None:
            task.to(trainer.strategy.root_device)
            task.model.decision_bias.copy_(bias)  # each from there: their order changes nothing
            with Console().status(f"Meeting a budget of {budget:g} on validation clips"):
                calibrated = calibrate(task.model, list(data.calibration_batches()), budget).achieved
        for level in (None, *snr_db):
            name = "clean" if level is None else f"{level:g} dB"
            trainer.test(task, dataloaders=TestBatches(data, level, f"Testing, {name}"), verbose=False)
            evaluation = collector.test
            assert evaluation is not None
            logged = {tag.removeprefix("test/"): float(value) for tag, value in trainer.callback_metrics.items()}
            condition = Condition(
                condition=name,
                snr_db=level,
                requested=budget,
                calibrated=calibrated,
                fraction=evaluation.compute_fraction,
                macs=evaluation.trace.macs.double().mean().item(),
                acc=logged["acc"],
                f1=macro_f1(evaluation, data.num_classes),
            )
            yield Pass(condition, evaluation, collector.logits, logged)
    task.model.decision_bias.copy_(bias)


class TestBatches:
    """The test clips as a trainer reads them, in noise or not, with a bar on the terminal if it takes long.

    The noise of a clip is a function of (seed, position in the split), whatever its level.
    """

    __test__ = False  # none of pytest's

    def __init__(self, data: AudioDataModule, snr_db: float | None, title: str) -> None:
        self.loader: KeyedLoader = data.test_dataloader()
        self.sample_rate, self.snr_db, self.title = data.sample_rate, snr_db, title

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[AudioBatch]:
        for batch in with_progress(self.loader, len(self), self.title):
            if self.snr_db is None:
                yield batch
            else:
                yield from with_noise([batch], self.snr_db, self.snr_db, self.sample_rate)


def budget_points(conditions: Sequence[Condition]) -> list[BudgetPoint]:
    """The budgets that were asked for."""
    return [
        BudgetPoint(row.requested, row.calibrated, row.fraction, row.macs, row.acc)
        for row in conditions
        if row.requested is not None and row.calibrated is not None
    ]
