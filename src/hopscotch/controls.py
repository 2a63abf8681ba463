"""Ask what the exits of a model are worth: is there anything to win, do they know, and would chance do as well?

    headroom      the best exit for all clips minus the cheapest one: below 2 standard errors no adaptive model can win
    AUROC         of an exit's score for its own errors: 0.5 is chance
    gain          rank correlation of how unsure an exit is with the loss that the last exit saves the clip
    random        clips leave by the same exits as often, but it is chance which one leaves where: the expected value
    one exit      the cheapest exit that costs at least as much, for all clips: cut there, not trained alone
    oracle        the first exit that is right, where any is: a ceiling

Differences are paired, over clips or, where clips share a speaker or recording, over these (hopscotch/intervals.py).
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hopscotch.intervals import Interval, Units, bootstrap
from hopscotch.models.exits import Ladder
from hopscotch.report.statistics import partial_rank_correlation, ranks
from hopscotch.report.text import Table, number
from hopscotch.training.exits import hear
from hopscotch.types import AudioBatch

ENOUGH = 2.0  # standard errors of headroom


class Exit(NamedTuple):
    """Say what one exit is worth."""

    share: float  # of the clips that leave by it
    macs: float  # mean, if all did
    acc: float  # if all did
    auroc: float | None  # None of the last one
    gain: float | None


class Heard(NamedTuple):
    """Hold what all exits say of the clips of a split, in its order."""

    right: Bool[np.ndarray, "clip exit"]
    losses: Float[np.ndarray, "clip exit"]
    scores: Float[np.ndarray, "clip earlier"]
    macs: Int[np.ndarray, "clip exit"]


class Controls(NamedTuple):
    """Hold the exits of a model, and its accuracy beside that of the controls."""

    exits: list[Exit]
    best: int  # the best exit for all clips, the cheapest of equals
    headroom: Interval
    errors: float  # standard errors of the headroom
    acc: float  # of the model, at `macs`
    macs: float
    over_random: Interval
    over_one: Interval | None  # None where no exit costs as much
    oracle: tuple[float, float]  # its accuracy and mean multiply-accumulates

    @property
    def warnings(self) -> list[str]:
        """Say that no adaptive model can win, if it is so."""
        if self.errors >= ENOUGH:
            return []
        return [
            f"no headroom: the best exit is right in {self.headroom.value:+.3f} of the clips more than the cheapest, "
            f"{self.errors:.1f} standard errors. No adaptive model can win here: take the cheapest static one."
        ]

    def table(self) -> Table:
        """Make a table with a row for each exit."""
        rows = [
            {
                "exit": str(place),
                "leave": f"{one.share:.0%}",
                "million MACs": number(one.macs / 1e6, 2),
                "accuracy": number(one.acc),
                "AUROC of errors": number(one.auroc, 3),
                "gain": number(one.gain, 3),
            }
            for place, one in enumerate(self.exits)
        ]
        return Table.of(rows)

    def in_words(self) -> dict[str, str]:
        """Say the controls by name."""
        told = {
            "headroom": f"{self.headroom} = {self.errors:.1f} standard errors  (exit {self.best} minus exit 0)",
            "over random exits": f"{self.over_random}",
        }
        if self.over_one is not None:
            told["over one exit"] = f"{self.over_one}  (the cheapest that costs as much)"
        return told | {"oracle": f"{self.oracle[0]:.4f}  for {self.oracle[1] / 1e6:.2f} million MACs"}

    def as_json(self) -> dict[str, Any]:
        one = None if self.over_one is None else asdict(self.over_one)
        intervals = {"headroom": asdict(self.headroom), "over_random": asdict(self.over_random), "over_one": one}
        return {**self._asdict(), "exits": [each._asdict() for each in self.exits], **intervals}


def controls_of(
    model: Ladder, batches: Sequence[AudioBatch], exits: Int[np.ndarray, " clip"], units: Units
) -> Controls:
    """Compare a model with its controls on clips, which leave by `exits`; both in the order of the split."""
    order = torch.cat([batch.indices for batch in batches]).argsort().numpy()
    at, labels, macs, _ = hear(model, batches)
    said = at.log_probs
    taken = said.gather(2, labels[:, None, None].expand(-1, said.shape[1], 1)).squeeze(2)
    right, scores = said.argmax(dim=-1) == labels[:, None], model.exits.scores(at)
    columns = (right, -taken.double(), scores.double(), macs)
    heard = Heard(*(column.numpy()[order] for column in columns))
    return compared(heard, exits, units)


def compared(heard: Heard, exits: Int[np.ndarray, " clip"], units: Units) -> Controls:
    """Compare where clips leave with the controls."""
    right, rows, last = heard.right.astype(np.float64), np.arange(len(exits)), heard.right.shape[1] - 1
    shares = np.bincount(exits, minlength=last + 1) / len(exits)
    found = []
    for place in range(last + 1):
        known = place < last
        gain = heard.losses[:, place] - heard.losses[:, last]
        length = heard.macs[:, 0].astype(np.float64)
        correlation = partial_rank_correlation(-heard.scores[:, place], gain, length) if known else np.nan
        area = auroc(-heard.scores[:, place], ~heard.right[:, place]) if known else np.nan
        means = float(heard.macs[:, place].mean()), float(right[:, place].mean())
        found.append(Exit(float(shares[place]), *means, *(None if np.isnan(x) else x for x in (area, correlation))))
    best = int(np.argmax([one.acc for one in found]))
    headroom = bootstrap(right[:, best] - right[:, 0], units)
    own, macs = right[rows, exits], float(heard.macs[rows, exits].mean())
    dearer = [place for place, one in enumerate(found) if one.macs >= macs]
    first = np.where(heard.right.any(axis=1), heard.right.argmax(axis=1), 0)  # nothing is gained where none is right
    return Controls(
        exits=found,
        best=best,
        headroom=headroom,
        errors=headroom.errors,
        acc=float(own.mean()),
        macs=macs,
        over_random=bootstrap(own - right @ shares, units),
        over_one=bootstrap(own - right[:, dearer[0]], units) if dearer else None,
        oracle=(float(heard.right.any(axis=1).mean()), float(heard.macs[rows, first].mean())),
    )


def auroc(values: Float[np.ndarray, " clip"], is_wanted: Bool[np.ndarray, " clip"]) -> float:
    """Return the chance that a wanted clip has a higher value than another, ties counting half; NaN without both."""
    wanted, others = int(is_wanted.sum()), int((~is_wanted).sum())
    if wanted == 0 or others == 0:
        return float("nan")
    return float((ranks(values)[is_wanted].sum() - wanted * (wanted + 1) / 2) / (wanted * others))
