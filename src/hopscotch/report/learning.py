"""How a run learned, from its metrics.jsonl: curves over steps, a row per epoch, and what looks wrong on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from hopscotch.report.findings import OVERFIT_GAP, STUCK_GATE

Lines = Sequence[Mapping[str, Any]]
OPEN_RATE = "gate/open_rate/layer_"


def curve(lines: Lines, tag: str) -> dict[int, float]:
    """Step -> value. Where a resumed run logged a step again the later line is true."""
    return {line["step"]: line[tag] for line in lines if line.get(tag) is not None}


def last(lines: Lines, tag: str) -> float | None:
    return next((line[tag] for line in reversed(lines) if line.get(tag) is not None), None)


def epochs(lines: Lines) -> list[dict[str, Any]]:
    """What was logged last of every tag in every epoch that came to a validation, by tag, `step` and `epoch` too."""
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        if line.get("epoch") is not None and not any(tag.startswith("test/") for tag in line):
            known = {tag: value for tag, value in line.items() if value is not None}
            found.setdefault(line["epoch"], {}).update(known)
    return [found[epoch] for epoch in sorted(found) if "val/loss" in found[epoch]]


def kept_epoch(lines: Lines, kept_loss: float | None = None) -> dict[str, Any] | None:
    """The epoch whose weights a run keeps, as it was at the validation with the lowest loss.

    None where there is no validation yet, or where `kept_loss`, that of the checkpoint kept, is below all that were
    logged: a run that goes on took it along.
    """
    losses = curve(lines, "val/loss")
    step = min(losses, key=losses.__getitem__, default=None)
    if step is None or (kept_loss is not None and kept_loss < losses[step] * (1 - 1e-6)):
        return None
    then = [line for line in lines if line["step"] == step and line.get("val/loss") == losses[step]][-1]
    whole = next(epoch for epoch in epochs(lines) if epoch["epoch"] == then["epoch"])
    return whole | {tag: value for tag, value in then.items() if value is not None}


def warnings_so_far(lines: Lines) -> list[str]:
    """What `findings.py` would say of a run that came to no test, from what its validations logged."""
    rows = epochs(lines)
    if not rows:
        return []
    row, warnings = rows[-1], []
    if row.get("policy/routes") == 1:
        warnings.append("constant policy so far: all validation clips take the same route.")
    for tag in sorted(tag for tag in row if tag.startswith(OPEN_RATE)):
        if not STUCK_GATE <= row[tag] <= 1 - STUCK_GATE:
            what = "dead gate so far: it opens for" if row[tag] < 0.5 else "saturated gate so far: it is open for"
            warnings.append(f"layer {int(tag.removeprefix(OPEN_RATE))} has a {what} {row[tag]:.1%} of the tokens.")
    train, val = row.get("train/acc"), row.get("val/acc")
    if train is not None and val is not None and train - val > OVERFIT_GAP:
        warnings.append(
            f"over-fitting so far: accuracy is {train:.3f} on training clips and {val:.3f} on validation clips."
        )
    return warnings
