"""Judge the answers: accuracy, macro F1, top-k, calibration, class by class, and who is taken for whom."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from hopscotch.report.collect import Evaluation
from hopscotch.report.statistics import confusion

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


def measure(evaluation: Evaluation, classes: Sequence[str]) -> Metrics:
    """Judge an evaluation; torchmetrics counts all but the confusions."""
    labels, logits, num_classes = evaluation.labels, evaluation.logits, len(classes)
    counts = confusion(labels.numpy(), evaluation.predictions.numpy(), num_classes)
    return Metrics(
        acc=among_best(evaluation, 1),
        f1=macro_f1(evaluation),
        top_k={k: among_best(evaluation, k) for k in TOP_K if k < num_classes},
        calibration_error=multiclass_calibration_error(
            logits.softmax(dim=-1), labels, num_classes, n_bins=NUM_BINS
        ).item(),
        per_class=[class_row(evaluation, counts, classes, label) for label in range(num_classes)],
        confusion=counts.tolist(),
    )


def among_best(evaluation: Evaluation, k: int) -> float:
    """Share of the clips whose label is among the k classes with the highest scores."""
    logits = evaluation.logits
    return multiclass_accuracy(logits, evaluation.labels, logits.shape[1], average="micro", top_k=k).item()


def macro_f1(evaluation: Evaluation) -> float:
    """Mean F1 over the classes that were shown or named."""
    num_classes = evaluation.logits.shape[1]
    return multiclass_f1_score(evaluation.predictions, evaluation.labels, num_classes, average="macro").item()


def class_row(
    evaluation: Evaluation, counts: Int[np.ndarray, "label prediction"], classes: Sequence[str], label: int
) -> ClassRow:
    """Say what became of the clips of one class."""
    of_class = evaluation.labels == label
    macs, dense_macs = evaluation.trace.macs[of_class], evaluation.trace.dense_macs[of_class]
    shown, named, right = int(counts[label].sum()), int(counts[:, label].sum()), int(counts[label, label])
    wrong = counts[label].copy()
    wrong[label] = 0
    return ClassRow(
        label=classes[label],
        clips=shown,
        acc=share(right, shown),
        precision=share(right, named),
        f1=share(2 * right, shown + named),
        taken_for=classes[int(wrong.argmax())] if wrong.any() else "",
        confidence=share(evaluation.confidences[of_class].double().sum().item(), shown),
        compute=share(int(macs.sum()), int(dense_macs.sum())),
        macs=share(int(macs.sum()), shown),
    )


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
