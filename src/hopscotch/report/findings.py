"""Say what is wrong with a run before someone believes its numbers.

Each rule stands here once. It is asked at the end of a run, of the evaluation of its test clips, and before that of
what the last validation logged.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hopscotch.data.clips import some
from hopscotch.intervals import Interval, ratio_interval
from hopscotch.report.collect import Evaluation
from hopscotch.report.decisions import RouteUse, layer_means, route_use
from hopscotch.report.run_folder import SUMMARY, RunFolder
from hopscotch.types import Primary

BUDGET_TOLERANCE = 0.1  # of the reachable range [floor, 1]
MIN_BUDGET_TOLERANCE = 0.02  # of the dense model, where that range is narrow
CONSTANT = 0.9  # share of the clips on one route: what remains is hardly a choice of each clip
STUCK_GATE = 0.01  # an open rate this near to 0 or 1 decides nothing
OVERFIT_GAP = 0.1  # of a metric such as accuracy: on training clips minus on test clips
OVERFIT_RATIO = 1.5  # of an error: on test clips over on training clips
OPEN_RATE = "gate/open_rate/layer_"


def find_warnings(
    test: Evaluation,
    *,
    decides: bool,
    floor: float,
    target: float | None = None,
    validated: bool = True,
    early: bool = False,
) -> list[str]:
    """Check a run at its end: `decides` says whether the model has any decision to take.

    `validated`: whether the weights that were tested ever met their budget, which happens before every validation.
    `early`: training ended so soon that nothing can be said of what it would have learned.
    """
    warnings = []
    if decides and not validated:
        warnings.append(
            "not validated: decisions meet their budget, and planned gains are fitted, before a validation, and none "
            "came. See trainer.limit_val_batches and check_val_every_n_epoch."
        )
    if early:
        return warnings
    rates = dict(enumerate(layer_means(test.trace)["gate/open_rate"].tolist()))
    if decides:
        warnings += constant_policy(route_use(test.trace), rates, "test")
    if decides and validated and target is not None:
        warnings += missed_budget(test, target, floor)
    return warnings + stuck_gates(rates)


def warnings_so_far(run: RunFolder) -> list[str]:
    """Check a run that came to no test, by what its last validation logged."""
    if not run.epochs:
        return []
    row, primary, warnings = run.epochs[-1], run.primary, []
    use: list[Any] = [row.get(f"policy/{name}") for name in RouteUse._fields]
    rates = {int(tag.removeprefix(OPEN_RATE)): rate for tag, rate in sorted(row.items()) if tag.startswith(OPEN_RATE)}
    if None not in use:
        warnings += constant_policy(RouteUse(*use), rates, "validation")
    if primary is not None:
        warnings += overfitting(primary, row.get(f"train/{primary.name}"), row.get(f"val/{primary.name}"), "validation")
    return [f"so far: {warning}" for warning in [*warnings, *stuck_gates(rates)]]


def warnings_of(run: RunFolder) -> list[str]:
    """Warnings stored in summary.json, plus those derived from clips.csv and metrics.jsonl."""
    found = [str(warning) for warning in run.summary.get("warnings") or []]
    if run.summary.get("error"):
        found.insert(0, f"{run.status}: {run.summary['error']}")
    if not run.summary.get("test"):
        found += warnings_so_far(run)
    if run.has_classes:
        shown, named = {row.label for row in run.clips}, {row.prediction for row in run.clips}
        if unheard := [name for name in run.classes if name not in shown]:
            found.append(f"classes without test clips, of which nothing is known: {', '.join(unheard)}.")
        if never := [name for name in run.classes if name in shown - named]:
            found.append(f"classes that no test clip was taken for: {', '.join(never)}.")
    if skipped := run.data.get("skipped"):
        found.append(
            f"clips left out, {len(skipped)} in all; {SUMMARY} has the reasons: {some(list(map(str, skipped)))}."
        )
    planned = (run.data.get("clips") or {}).get("test")
    if run.clips and planned and len(run.clips) != planned:
        found.append(f"{len(run.clips)} of {planned} test clips were judged.")
    return found


# The rules. `clips` names the split that was looked at.


def constant_policy(use: RouteUse, rates: Mapping[int, float], clips: str) -> list[str]:
    """Judge routes; where gates choose tokens, a route that all clips share is no fault. `rates` as below."""
    if use.top_route < CONSTANT or any(is_deciding(rate) for rate in rates.values()):
        return []
    return [
        f"constant policy: {use.top_route:.0%} of the {clips} clips take the same route, so the layers decide and the "
        "clips do not. Try another compute.target, or train longer."
    ]


def missed_budget(test: Evaluation, target: float, floor: float) -> list[str]:
    """Compare what the test clips use with the target; a difference that a draw of so few clips explains is none."""
    fraction, tolerance = test.compute_fraction, max(BUDGET_TOLERANCE * (1.0 - floor), MIN_BUDGET_TOLERANCE)
    low, _ = ratio_interval(test.trace.macs.tolist(), test.trace.dense_macs.tolist())
    chance = 0.0 if np.isnan(low) else fraction - low
    if abs(fraction - target) <= tolerance + chance:
        return []
    side = "more" if fraction > target else "less"
    return [
        f"budget missed: test clips use {fraction:.3f} of the dense compute, {side} than compute.target={target:.3f} "
        f"by over {tolerance:.3f}. Train longer, or raise compute.weight (of no "
        "use to estimators gain and random, and to a gate alone: no gradient of the budget moves these)."
    ]


def is_deciding(rate: float) -> bool:
    return STUCK_GATE <= rate <= 1.0 - STUCK_GATE


def stuck_gates(rates: Mapping[int, float]) -> list[str]:
    """`rates`: layer -> share of the tokens that its gate opens, NaN without a gate."""
    warnings = []
    for layer, rate in rates.items():
        if np.isnan(rate) or is_deciding(rate):
            continue
        what = "dead gate: it opens for" if rate < 0.5 else "saturated gate: it is open for"
        warnings.append(f"layer {layer} has a {what} {rate:.1%} of the tokens, so it decides nothing.")
    return warnings


def no_better(test: Evaluation, majority: float | None, label: str | None) -> list[str]:
    """Compare the accuracy on test clips with that of always saying the class with most training clips, if any."""
    if majority is None or label is None:
        return []
    right = (~test.is_wrong).double().mean().item()  # to the last bit as the other is
    return [] if right > majority else [f"no better than always saying {label!r} ({majority:.3f})."]


def overfitting(
    primary: Primary, train: float | None, held_out: float | None, clips: str, sure: Interval | None = None
) -> list[str]:
    """Compare the primary metric on training clips with others; what their interval explains is no worse."""
    if train is None or held_out is None:
        return []
    chance = held_out if sure is None else sure.high
    gap = train - held_out > OVERFIT_GAP and train > chance
    if not (gap if primary.larger_is_better else held_out > OVERFIT_RATIO * train):
        return []
    return [
        f"over-fitting: {primary.name} is {train:.3f} on training clips and {held_out:.3f} on {clips} clips. "
        "More data, augment=speakers or a smaller size help."
    ]
