"""How good the answers are: accuracy, macro F1, top-k, calibration, class by class, and who is taken for whom."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from hopscotch.report.traces import Evaluation, TraceCollector

TOP_K = (2, 3, 5)  # where there are more classes than that
NUM_BINS = 15  # of confidence, equally wide


class ClassRow(NamedTuple):
    """What became of the clips of one class; None where there is nothing to divide by."""

    label: str
    clips: int
    acc: float | None  # share of its clips that were recognised
    precision: float | None  # share of the clips given this label that are of it
    f1: float | None
    taken_for: str  # the wrong label it was given most often
    confidence: float | None  # mean over its clips
    compute: float | None  # sum of multiply-accumulates over sum of dense ones
    macs: float | None  # mean per clip


class Metrics(NamedTuple):
    acc: float
    f1: float  # mean over the classes that were shown or named
    top_k: dict[int, float]
    calibration_error: float  # expected |confidence - accuracy|
    per_class: list[ClassRow]
    confusion: list[list[int]]  # [label][prediction]


class ScoreCollector(TraceCollector):
    """Keeps the scores of all classes, too: `logits`, in the order of the split."""

    logits: Float[Tensor, "clip classes"]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        order = torch.cat([indices for indices, _, _ in self.buffer.steps]).cpu().argsort(stable=True)
        self.logits = torch.cat([step.output.logits for _, _, step in self.buffer.steps]).float().cpu()[order]
        super().on_test_epoch_end(trainer, pl_module)


def measure(evaluation: Evaluation, logits: Float[Tensor, "clip classes"], classes: Sequence[str]) -> Metrics:
    labels, num_classes = evaluation.labels, len(classes)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return Metrics(
        acc=among_best(logits, labels, 1),
        f1=macro_f1(evaluation, num_classes),
        top_k={k: among_best(logits, labels, k) for k in TOP_K if k < num_classes},
        calibration_error=multiclass_calibration_error(
            logits.softmax(dim=-1), labels, num_classes, n_bins=NUM_BINS
        ).item(),
        per_class=class_rows(evaluation, confusion, classes),
        confusion=confusion.tolist(),
    )


def among_best(logits: Float[Tensor, "clip classes"], labels: Int[Tensor, " clip"], k: int) -> float:
    """Share of the clips whose label is among the k classes with the highest scores."""
    return multiclass_accuracy(logits, labels, logits.shape[1], average="micro", top_k=k).item()


def macro_f1(evaluation: Evaluation, num_classes: int) -> float:
    return multiclass_f1_score(evaluation.predictions, evaluation.labels, num_classes, average="macro").item()


def class_rows(
    evaluation: Evaluation, confusion: Int[Tensor, "label prediction"], classes: Sequence[str]
) -> list[ClassRow]:
    rows = []
    for label, name in enumerate(classes):
        of_class = evaluation.labels == label
        macs, dense_macs = evaluation.trace.macs[of_class], evaluation.trace.dense_macs[of_class]
        shown, named, right = (
            int(n) for n in (confusion[label].sum(), confusion[:, label].sum(), confusion[label, label])
        )
        wrong = confusion[label].clone()
        wrong[label] = 0
        rows.append(
            ClassRow(
                label=name,
                clips=shown,
                acc=share(right, shown),
                precision=share(right, named),
                f1=share(2 * right, shown + named),
                taken_for=classes[int(wrong.argmax())] if wrong.any() else "",
                confidence=share(evaluation.confidences[of_class].double().sum().item(), shown),
                compute=share(int(macs.sum()), int(dense_macs.sum())),
                macs=share(int(macs.sum()), shown),
            )
        )
    return rows


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def as_json(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "acc": metrics.acc,
        "f1": metrics.f1,
        "top_k": {str(k): value for k, value in metrics.top_k.items()},
        "calibration_error": metrics.calibration_error,
        "per_class": [row._asdict() for row in metrics.per_class],
        "confusion": {"classes": list(classes), "counts": metrics.confusion},
    }
