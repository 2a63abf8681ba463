"""Say whether test clips cost what a model was trained to cost, and why not."""

import numpy as np

from hopscotch.intervals import ratio_interval
from hopscotch.report.collect import Evaluation

BUDGET_TOLERANCE = 0.1  # of the reachable range [floor, 1]
MIN_BUDGET_TOLERANCE = 0.02  # of the dense model, where that range is narrow


def missed_budget(test: Evaluation, target: float, floor: float, *, is_capped: bool = False) -> list[str]:
    """Compare what the test clips use with the target; a difference that a draw of so few clips explains is none.

    `is_capped` says that calibration stopped where a gate opens as many tokens as in training.
    """
    fraction, tolerance = test.compute_fraction, max(BUDGET_TOLERANCE * (1.0 - floor), MIN_BUDGET_TOLERANCE)
    low, _ = ratio_interval(test.trace.macs.tolist(), test.trace.dense_macs.tolist())
    chance = 0.0 if np.isnan(low) else fraction - low
    if abs(fraction - target) <= tolerance + chance:
        return []
    side = "more" if fraction > target else "less"
    found = (
        f"budget missed: test clips use {fraction:.3f} of the dense compute, {side} than compute.target={target:.3f} "
        f"by over {tolerance:.3f}."
    )
    if is_capped and fraction < target:
        return [
            f"{found} More would open gates further than at the end of training, and what they let in then is new to "
            "the model: raise model.open_rate (gate.open_rate in jump blocks), or lower the target."
        ]
    return [
        f"{found} Train longer, or raise compute.weight (of no use to estimators gain and random, and to a gate alone: "
        "no gradient of the budget moves these)."
    ]
