"""The figures of an evaluation, against the slow and obvious way to them."""

import json
import math
from pathlib import Path

import pytest
import torch

from hopscotch.conditions import Condition
from hopscotch.evaluation import class_table, in_noise, print_evaluation, write_budgets, write_evaluation
from hopscotch.intervals import Interval
from hopscotch.metrics import NUM_BINS, ClassRow, Metrics, measure, scores_of
from hopscotch.report.collect import Evaluation, gather
from hopscotch.report.text import markdown
from hopscotch.training.classify import ClassificationTask
from hopscotch.types import AudioBatch, ModelOutput, Step
from tests.hand_made import stride_trace

CLASSES = ["ant", "bee", "cow", "doe"]  # no clip is a doe
NUM_CLIPS = 40


def steps_of() -> list[Step]:
    """Two batches, the second clips first."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM_CLIPS) % 3
    logits = 2 * torch.randn(NUM_CLIPS, 4, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 4)
    trace = stride_trace()[torch.arange(NUM_CLIPS) % 4]
    losses, steps = torch.rand(NUM_CLIPS), []
    for rows in (torch.arange(NUM_CLIPS // 2, NUM_CLIPS), torch.arange(NUM_CLIPS // 2)):
        output = ModelOutput(logits[rows], trace[rows], {}, frontend_macs=0 * rows, positions=rows)
        batch = AudioBatch(torch.zeros(len(rows), 8), 8 + 0 * rows, labels=labels[rows], indices=rows, keys=rows)
        task = ClassificationTask.__new__(ClassificationTask)
        told = ClassificationTask.rows(task, output, batch)
        steps.append(Step(losses[rows], output, batch, (output.logits, batch.labels), told))
    return steps


def scored() -> Evaluation:
    return gather(steps_of())


def test_top_k_counts_the_clips_whose_label_is_among_the_best() -> None:
    evaluation = scored()
    metrics, scores = measure(evaluation, steps_of(), CLASSES), scores_of(steps_of())
    labels = evaluation.rows["label"]
    ranks = [(row > row[label]).sum().item() for row, label in zip(scores, labels, strict=True)]
    assert (~evaluation.is_wrong).sum() == sum(rank < 1 for rank in ranks)
    assert metrics.top_k == pytest.approx({k: sum(rank < k for rank in ranks) / NUM_CLIPS for k in (2, 3)})
    assert 0 < metrics.top_k[2] < metrics.top_k[3]


def test_macro_f1_is_the_mean_over_the_classes_that_were_shown_or_named() -> None:
    evaluation = scored()
    metrics = measure(evaluation, steps_of(), CLASSES)
    f1 = []
    for label in range(4):
        is_label, is_named = evaluation.rows["label"] == label, evaluation.rows["prediction"] == label
        if is_label.any() or is_named.any():
            f1.append(2 * (is_label & is_named).sum().item() / (is_label.sum() + is_named.sum()).item())
    assert metrics.f1 == pytest.approx(sum(f1) / len(f1))
    assert [row.f1 for row in metrics.per_class if row.f1 is not None] == pytest.approx(f1)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy_bin_by_bin() -> None:
    evaluation = scored()
    error = 0.0
    is_right = (evaluation.rows["prediction"] == evaluation.rows["label"]).double()
    for number in range(NUM_BINS):
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        of_bin = (evaluation.rows["confidence"] > low) & (evaluation.rows["confidence"] <= high)
        if of_bin.any():
            gap = (evaluation.rows["confidence"][of_bin].double().mean() - is_right[of_bin].mean()).abs().item()
            error += of_bin.double().mean().item() * gap
    assert measure(evaluation, steps_of(), CLASSES).calibration_error == pytest.approx(error, abs=1e-6)
    assert error > 0.02


def test_the_confusion_counts_pairs_of_label_and_prediction() -> None:
    evaluation = scored()
    metrics = measure(evaluation, steps_of(), CLASSES)
    pairs = list(zip(evaluation.rows["label"].tolist(), evaluation.rows["prediction"].tolist(), strict=True))
    assert metrics.confusion == [[pairs.count((label, named)) for named in range(4)] for label in range(4)]


def test_compute_by_class_is_that_of_the_trace() -> None:
    evaluation = scored()
    for label, row in enumerate(measure(evaluation, steps_of(), CLASSES).per_class[:3]):
        of_class = [i for i in range(NUM_CLIPS) if int(evaluation.rows["label"][i]) == label]
        macs = sum(int(evaluation.trace.macs[i]) for i in of_class)
        assert (row.clips, row.macs) == (len(of_class), macs / len(of_class))
        assert row.compute == macs / sum(int(evaluation.trace.dense_macs[i]) for i in of_class)
    assert len({row.compute for row in measure(evaluation, steps_of(), CLASSES).per_class}) > 2


def test_a_class_without_clips_has_no_accuracy_and_no_compute() -> None:
    evaluation = scored()
    row = measure(evaluation, steps_of(), CLASSES).per_class[3]
    assert (row.clips, row.acc, row.compute, row.macs, row.confidence) == (0, None, None, None, None)
    assert markdown(class_table([row])).splitlines()[-1].startswith("| doe | 0 |  |")


def test_the_wrong_label_given_most_often_is_named() -> None:
    evaluation = scored()
    metrics = measure(evaluation, steps_of(), CLASSES)
    for label, row in enumerate(metrics.per_class):
        wrong = {name: n for name, n in zip(CLASSES, metrics.confusion[label], strict=True) if name != CLASSES[label]}
        assert row.taken_for == (max(wrong, key=lambda name: wrong[name]) if any(wrong.values()) else "")


def test_of_many_classes_those_recognised_worst_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ClassRow(f"class{i:03d}", 1, i / 100, 1.0, 1.0, "", 0.5, 0.5, 1e6) for i in range(100)]
    condition = Condition("clean", None, None, None, 0.5, 1e6, {"acc": 0.5, "f1": 0.5})
    sure = Interval(0.5, 0.3, 0.7, "10 speakers")
    more = {
        "num_clips": 100,
        "num_bad": 0,
        "told": {"event F1": "0.5"},
        "sure": sure,
        "times": (0.004, 0.008),
        "warnings": ["so it is"],
    }
    print_evaluation(Metrics(0.5, {}, 0.1, rows[::-1], []), [condition], None, **more)
    printed = capsys.readouterr().out
    assert "test acc           0.5000  (0.300 to 0.700, 95 % over 10 speakers; 100 clips)" in printed
    assert "class000" in printed
    assert "class039" in printed
    assert "class040" not in printed
    assert "time fraction      0.50  (4.00 of 8.00 milliseconds a clip)" in printed
    assert "event F1           0.5\n" in printed
    assert "warning: so it is" in printed


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    row = ClassRow("a|b", 1, 1.0, 1.0, 1.0, "", 0.5, 0.5, 1e6)
    assert markdown(class_table([row])).splitlines()[-1].startswith(r"| a\|b | 1 |")


def test_metrics_json_has_null_for_what_is_no_number(tmp_path: Path) -> None:
    evaluation = scored()
    metrics = measure(evaluation, steps_of(), CLASSES)._replace(calibration_error=math.nan)
    condition = Condition("clean", None, None, None, 0.5, 1e6, {"acc": 0.5, "f1": 0.5})
    facts = {"test": {"loss": math.inf}}
    write_evaluation(tmp_path, facts=facts, metrics=metrics, classes=CLASSES, clips=[], conditions=[condition])
    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert (found["test"]["loss"], found["calibration_error"], found["acc"]) == (None, None, 0.5)


def test_compute_in_noise_is_said_to_rise_or_to_fall_step_by_step() -> None:
    def at(snr_db: float | None, fraction: float, budget: float | None = None) -> Condition:
        name = "clean" if snr_db is None else f"{snr_db:g} dB, kitchen"
        return Condition(name, snr_db, budget, None, fraction, 1e6, {"acc": 0.5})

    rows = [at(None, 0.4), at(0.0, 0.6), at(10.0, 0.5), at(None, 0.6, 0.6), at(0.0, 0.7, 0.6), at(10.0, 0.55, 0.6)]
    rising, falling = in_noise(rows)
    assert rising == {"compute rises with noise": "0.400 clean, 0.500 10 dB, 0.600 0 dB"}
    assert falling == [
        "compute falls as noise rises at a budget of 0.6, from clean to 10 dB: 0.600 clean, 0.550 10 dB, 0.700 0 dB."
    ]
    assert in_noise([at(None, 1.0), at(0.0, 1.0)]) == ({}, [])  # a static model


def test_budgets_are_written_of_the_clean_conditions_that_asked_for_one(tmp_path: Path) -> None:
    clean = Condition("clean", None, 0.8, 0.79, 0.81, 2e6, {"acc": 0.9, "f1": 0.9})
    asked = [clean, clean._replace(condition="0 dB", snr_db=0.0), clean._replace(requested=1.0, metrics={"acc": 0.95})]
    write_budgets([clean._replace(requested=None)], tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_budgets(asked, tmp_path)
    lines = ["requested,calibrated,fraction,macs,acc", "0.8,0.79,0.81,2000000.0,0.9", "1.0,0.79,0.81,2000000.0,0.95"]
    assert (tmp_path / "budgets.csv").read_text().splitlines() == lines
    assert "| 0.800 | 0.790 | 0.810 | 2.00 | 0.9000 |" in (tmp_path / "budgets.md").read_text()
    assert (tmp_path / "budgets.png").stat().st_size > 1000
