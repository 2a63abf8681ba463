"""Say what is wrong with a run before someone believes its numbers."""

import numpy as np

from hopscotch.report.numbers import layer_means, route_shares
from hopscotch.report.traces import Evaluation

COMMON_ROUTE = 0.1  # share of the clips that makes a route count as in use
BUDGET_TOLERANCE = 0.1  # of the reachable range [floor, 1]
MIN_BUDGET_TOLERANCE = 0.02  # of the dense model, where that range is narrow
STUCK_GATE = 0.01  # an open rate this near to 0 or 1 decides nothing
OVERFIT_GAP = 0.1  # accuracy on training clips minus that on test clips


def find_warnings(
    test: Evaluation,
    *,
    decides: bool,
    floor: float,
    target: float | None = None,
    train_accuracy: float | None = None,
    validated: bool = True,
) -> list[str]:
    """Warnings in words, for the summary of a run: `decides` says whether the model has any decision to take.

    `validated`: whether the weights that were tested ever met their budget, which happens before every validation.
    """
    warnings = []
    if decides and not validated:
        warnings.append(
            "not validated: decisions meet their budget, and planned gains are fitted, before a validation, and none "
            "came. See trainer.limit_val_batches and check_val_every_n_epoch."
        )
    if decides:
        warnings += constant_policy(test)
    if decides and validated and target is not None:
        warnings += missed_budget(test, target, floor)
    return warnings + stuck_gates(test) + overfitting(test, train_accuracy)


def constant_policy(test: Evaluation) -> list[str]:
    shares = route_shares(test.trace)
    num_common = int((shares >= COMMON_ROUTE).sum())
    if num_common >= 2:
        return []
    kind = "constant policy" if shares[0] > 0.5 else "scattered rather than constant policy"
    in_use = "1 is" if len(shares) == 1 else f"{len(shares)} are"
    return [
        f"{kind}: fewer than two routes are each taken by {COMMON_ROUTE:.0%} of the test clips; "
        f"{in_use} in use, the commonest by {shares[0]:.0%}. Try another compute.target, or train longer."
    ]


def missed_budget(test: Evaluation, target: float, floor: float) -> list[str]:
    fraction = test.compute_fraction
    tolerance = max(BUDGET_TOLERANCE * (1.0 - floor), MIN_BUDGET_TOLERANCE)
    if abs(fraction - target) <= tolerance:
        return []
    side = "more" if fraction > target else "less"
    return [
        f"budget missed: test clips use {fraction:.3f} of the dense compute, {side} than compute.target={target:.3f} "
        f"by over {tolerance:.3f}. Train longer, or raise compute.weight (of no "
        "use to estimators gain and random, and to a gate alone: no gradient of the budget moves these)."
    ]


def stuck_gates(test: Evaluation) -> list[str]:
    warnings = []
    for layer, rate in enumerate(layer_means(test.trace)["gate/open_rate"]):
        if np.isnan(rate) or STUCK_GATE <= rate <= 1.0 - STUCK_GATE:
            continue
        what = "dead gate: it opens for" if rate < 0.5 else "saturated gate: it is open for"
        warnings.append(f"layer {layer} has a {what} {rate:.1%} of the tokens, so it decides nothing.")
    return warnings


def overfitting(test: Evaluation, train_accuracy: float | None) -> list[str]:
    if train_accuracy is None or train_accuracy - test.accuracy <= OVERFIT_GAP:
        return []
    return [
        f"over-fitting: accuracy is {train_accuracy:.3f} on training clips and {test.accuracy:.3f} on test clips. "
        "More data, augment=speakers or a smaller size help."
    ]
