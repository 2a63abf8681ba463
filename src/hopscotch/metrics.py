"""Judge classes that were given to clips: macro F1, top-k, calibration, class by class, and who is taken for whom."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.report.collect import Evaluation
from hopscotch.report.statistics import NUM_BINS, confusion
from hopscotch.types import Step

TOP_K = (2, 3, 5)  # where there are more classes than that


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
    f1: float  # mean over the classes that were shown or named
    top_k: dict[int, float]
    calibration_error: float  # expected |confidence - accuracy|
    per_class: list[ClassRow]
    confusion: list[list[int]]  # [label][prediction]


def measure(evaluation: Evaluation, steps: Sequence[Step], classes: Sequence[str]) -> Metrics:
    """Judge an evaluation, whose steps have the scores; torchmetrics counts all but the confusions."""
    labels, predictions, num_classes = evaluation.rows["label"], evaluation.rows["prediction"], len(classes)
    scores = scores_of(steps)
    counts = confusion(labels.numpy(), predictions.numpy(), num_classes)
    return Metrics(
        f1=evaluation.macro_f1(num_classes),
        top_k={
            k: multiclass_accuracy(scores, labels, num_classes, average="micro", top_k=k).item()
            for k in TOP_K
            if k < num_classes
        },
        calibration_error=multiclass_calibration_error(
            scores.softmax(dim=-1), labels, num_classes, n_bins=NUM_BINS
        ).item(),
        per_class=[class_row(evaluation, counts, classes, label) for label in range(num_classes)],
        confusion=counts.tolist(),
    )


def class_facts(test: Evaluation, data: AudioDataModule) -> dict[str, Any]:
    """Find the class with most training clips, and the accuracy of always saying it."""
    if not test.has_classes:
        return {}
    ((most, _),) = Counter(clip.label for clip in data.clips["train"] if isinstance(clip.label, int)).most_common(1)
    majority = (test.rows["label"] == most).double().mean().item()
    return {"majority_class": data.classes[most], "majority_baseline": majority}


def scores_of(steps: Sequence[Step]) -> Float[Tensor, "clip classes"]:
    """Join what the head said of the clips, in the order of the split."""
    order = torch.cat([step.indices for step in steps]).argsort(stable=True)
    return torch.cat([step.output.logits for step in steps])[order].float().cpu()


def class_row(
    evaluation: Evaluation, counts: Int[np.ndarray, "label prediction"], classes: Sequence[str], label: int
) -> ClassRow:
    """Say what became of the clips of one class."""
    of_class = evaluation.rows["label"] == label
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
        confidence=share(evaluation.rows["confidence"][of_class].double().sum().item(), shown),
        compute=share(int(macs.sum()), int(dense_macs.sum())),
        macs=share(int(macs.sum()), shown),
    )


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def as_json(metrics: Metrics, classes: Sequence[str]) -> dict[str, Any]:
    rows = [row._asdict() for row in metrics.per_class]
    return {
        **metrics._asdict(),
        "per_class": rows,
        "confusion": {"classes": list(classes), "counts": metrics.confusion},
    }
