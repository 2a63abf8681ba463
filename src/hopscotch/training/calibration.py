"""Calibrate a model to a compute budget by one scalar bias on all its decisions.

Training pulls the mean of the expected compute to the target. The deterministic decisions then miss the target by a
little, so before every validation the bias is set until they meet it; fractions rise with the bias. One bias moves
routes and gates: it stops where a gate opens more tokens than it did in training, which the model has not learnt to
read, and the target is then not met. Whoever asks for a budget beyond gets it.

A run keeps a table of biases and the fractions that they come to. Whoever loads the model sets any budget by it, and
needs no data.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from hopscotch.layers.gate import Gate
from hopscotch.models.audio_model import AudioModel
from hopscotch.progress import with_progress
from hopscotch.types import AudioBatch

TOLERANCE = 0.004  # of the fraction; a tenth of what tests allow a run
OPEN_TOLERANCE = (
    0.05  # of the tokens, more than in the last training steps; a gate of 0.60 that opened 0.81 cost accuracy
)
MAX_PASSES = 10  # over the calibration clips
MAX_BIAS = 8.0  # of asinh(bias), a bias of 1490: above every logit, and a tenth of it above every gate's score
FIRST_STEP = 0.25  # of asinh(bias): from a bias of 0 to one of 0.25
TABLE_STEP = 0.09  # of the fraction, between the rows of a table; between them it is near a straight line
LEAST_STEPS = 8  # of a table: a model whose fractions lie close together has smaller steps
FINEST = 0.02  # of asinh(bias): finer steps about 0, where some models turn from cheap to dear, coarser ones beyond
NARROWEST = 0.05  # of asinh(asinh(bias) / FINEST): a wider gap between fractions there is one between clips
MAX_TABLE_PASSES = 24
MAX_ROWS = 64  # of a table that is read


class Calibration(NamedTuple):
    """Hold the requested fraction, the achieved one, and the bias that achieves it."""

    requested: float
    achieved: float
    bias: float
    is_capped: bool = False  # whether more would open a gate beyond what training ended with

    def warnings(self) -> list[str]:
        """Say why a target was not met, if it was for gates."""
        if not self.is_capped:
            return []
        return [
            f"gates held the budget: validation clips use {self.achieved:.3f} of the dense compute instead of "
            f"{self.requested:.3f}. More would open gates further than at the end of training, and what they let in "
            "then is new to the model: raise model.open_rate (gate.open_rate in jump blocks), or lower compute.target."
        ]


def resolve_target(target: str | float, model: AudioModel, mean_samples: float, level: float) -> float | None:
    """Return compute.target as a fraction; None for a model that decides nothing.

    "auto" is floor + level (ceiling - floor) of what the model can reach. The ceiling is 1, except with fixed strides.
    A gate before the encoder limits "auto" to what training ends with, so that tests open no more tokens.
    """
    if not model.decides:
        if target != "auto":
            raise ValueError(
                f"compute.target={target} has no meaning for model={model.name}, which makes no decisions. Remove it."
            )
        return None
    cost = model.cost(round(mean_samples))
    floor, ceiling = cost.floor, cost.ceiling
    if floor == ceiling:
        raise ValueError(
            f"{model.name} must have something to skip, and nothing that it decides changes what it costs: jumps need "
            "model.depth above 2 and model.encoder.jump.max above 1 under jump.rule=literal, strides a "
            "model.encoder.max_stride above 1."
        )
    if target == "auto":
        return min(floor + level * (ceiling - floor), cost.trained / cost.dense)
    if not floor <= float(target) <= ceiling:
        raise ValueError(
            f"compute.target must lie between the floor of {model.name}, {floor:.3f}, and {ceiling:.3g}, got {target}. "
            "The floor is every decision at its cheapest; a smaller model.ffn_ratio or a deeper model lowers it."
        )
    return float(target)


@torch.no_grad()
def deterministic_fraction(model: AudioModel, batches: Sequence[AudioBatch]) -> float:
    """Divide the sum of MACs run by the sum of dense MACs, in evaluation."""
    device = model.decision_bias.device
    run = dense = 0
    for batch in batches:
        trace = model(batch.waveform.to(device), batch.lengths.to(device)).trace
        run, dense = run + int(trace.macs.sum()), dense + int(trace.dense_macs.sum())
    return run / dense


def calibrate(
    model: AudioModel, batches: Sequence[AudioBatch], target: float, *, as_trained: bool = False
) -> Calibration:
    """Set `model.decision_bias` so that the deterministic fraction of these batches is as near `target` as possible.

    The search moves from the present bias in growing steps until the target is between two points, then bisects. With
    `as_trained` a bias above 0 that opens a gate further than training did counts as one that costs too much.
    """
    was_training = model.training
    model.eval()
    too_open = set[float]()

    def fraction(u: float) -> float:
        model.decision_bias.fill_(math.sinh(u))
        with _counted(model.encoder.gates if as_trained else ()) as shares:
            found = deterministic_fraction(model, batches)
        if u > 0 and any(share > float(gate.measured_rate) + OPEN_TOLERANCE for gate, share in shares.items()):
            too_open.add(u)
        return found

    def nearest() -> tuple[float, float]:
        return _nearest({v: f for v, f in seen.items() if v not in too_open} or seen, target)

    u = math.asinh(float(model.decision_bias))
    seen = {u: fraction(u)}
    step = FIRST_STEP
    while len(seen) < MAX_PASSES and (seen.keys() <= too_open or abs(nearest()[1] - target) > TOLERANCE):
        below = [v for v, f in seen.items() if f < target and v not in too_open]
        above = [v for v, f in seen.items() if f >= target or v in too_open]
        if below and above:
            u = (max(below) + min(above)) / 2
        else:
            edge = max(below) if below else min(above)
            if abs(edge) >= MAX_BIAS:
                break
            u = min(max(edge + (step if below else -step), -MAX_BIAS), MAX_BIAS)
            step *= 2
        seen[u] = fraction(u)
    u, achieved = nearest()
    model.decision_bias.fill_(math.sinh(u))
    model.train(was_training)
    is_capped = achieved < target - TOLERANCE and any(v > u for v in too_open)
    return Calibration(target, achieved, math.sinh(u), is_capped)


@contextmanager
def _counted(gates: Sequence[Gate]) -> Iterator[dict[Gate, float]]:
    """Count, while a model runs, the share of the tokens that each gate opens; a gate that nothing reached has none."""
    counts = {gate: [0, 0] for gate in gates}
    shares = dict[Gate, float]()

    def count_one(gate: Any, given: tuple[Any, ...], decision: Any) -> None:
        counts[gate][0] += int(decision.is_open.sum())
        counts[gate][1] += int(given[1].sum())

    hooks = [gate.register_forward_hook(count_one) for gate in gates]
    try:
        yield shares
    finally:
        for hook in hooks:
            hook.remove()
        shares |= {gate: num_open / num for gate, (num_open, num) in counts.items() if num}


class Budget(NamedTuple):
    """Say what fraction of the dense compute a bias comes to."""

    bias: float
    fraction: float


def budget_table(model: AudioModel, batches: Sequence[AudioBatch]) -> list[Budget]:
    """Measure the fractions of these batches under biases from the cheapest decisions to the dearest.

    The widest gap between two fractions is halved until none is wider than `TABLE_STEP`, nor than a part of what lies
    between the outer two. Fractions rise strictly: what a decision does that turns round is left out. The model is
    afterwards as it was.
    """
    bias, was_training = float(model.decision_bias), model.training
    model.eval()

    more = with_progress(count(), MAX_TABLE_PASSES, "Measuring budgets")

    def measured(x: float) -> Budget:
        next(more)
        at = math.sinh(FINEST * math.sinh(x))
        model.decision_bias.fill_(at)
        return Budget(at, deterministic_fraction(model, batches))

    end = math.asinh(MAX_BIAS / FINEST)
    seen = {x: measured(x) for x in (-end, 0.0, end)}
    widest = min(TABLE_STEP, (seen[end].fraction - seen[-end].fraction) / LEAST_STEPS)
    while len(seen) < MAX_TABLE_PASSES:
        pairs = [(a, b) for a, b in pairwise(sorted(seen)) if b - a > NARROWEST]
        gap, x = max((seen[b].fraction - seen[a].fraction, (a + b) / 2) for a, b in pairs)
        if gap <= widest:
            break
        seen[x] = measured(x)
    more.close()
    model.decision_bias.fill_(bias)
    model.train(was_training)
    rows: list[Budget] = []
    for x in sorted(seen):
        if len(rows) == 1 and seen[x].fraction == rows[0].fraction:
            rows.pop()  # of the biases that leave the floor as it is, the highest
        if not rows or seen[x].fraction > rows[-1].fraction:
            rows.append(seen[x])
    return rows


def bias_for(table: Sequence[Budget], budget: float) -> float:
    """Interpolate the bias that a budget needs; a budget beyond the table is refused."""
    low, high = (round(row.fraction, 3) for row in (table[0], table[-1]))
    if not low <= budget <= high:
        raise ValueError(f"budget must lie between {low:.3f} and {high:.3f}, which this model reaches, got {budget}.")
    biases, fractions = zip(*table, strict=True)
    return math.sinh(np.interp(budget, fractions, np.arcsinh(biases)))


def is_table(value: Any) -> bool:
    """Tell whether a value that was read is a table: biases and fractions in bounds, both rising."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ROWS:
        return False
    if not all(isinstance(row, list) and len(row) == 2 and all(type(x) is float for x in row) for row in value):
        return False
    within = all(abs(bias) <= 1.001 * math.sinh(MAX_BIAS) and 0 < fraction <= 1.001 for bias, fraction in value)
    return within and all(a < c and b < d for (a, b), (c, d) in pairwise(value))


def _nearest(seen: dict[float, float], target: float) -> tuple[float, float]:
    return min(seen.items(), key=lambda item: abs(item[1] - target))
