"""What exits are worth beside chance, one exit for all clips, and an oracle; all on plain arrays."""

import json
from pathlib import Path

import numpy as np
import pytest

from hopscotch.controls import Heard, auroc, compared
from hopscotch.evaluate import evaluate
from hopscotch.intervals import Units
from tests.trained import write_run

NUM_CLIPS = 600
COSTS = (10, 40, 100)


def heard(*, headroom: bool) -> tuple[Heard, Units]:
    """Hard clips need the later exits, and the scores of exits tell so, if there is anything to tell."""
    rng = np.random.default_rng(0)
    hard = rng.random(NUM_CLIPS)
    limits = (0.5, 0.75, 0.95) if headroom else (0.8, 0.8, 0.8)
    right = np.stack([hard < limit for limit in limits], axis=1)
    losses = np.stack([np.maximum(hard - limit, 0) for limit in limits], axis=1)
    scores = np.stack([-hard + 0.1 * rng.standard_normal(NUM_CLIPS) for _ in range(2)], axis=1)
    return Heard(right, losses, scores, np.tile(COSTS, (NUM_CLIPS, 1))), Units.of([None] * NUM_CLIPS)


def test_auroc_is_the_share_of_pairs_in_their_order() -> None:
    values, wanted = np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([True, False, True, False, False])
    pairs = [(values[i] > values[j]) + 0.5 * (values[i] == values[j]) for i in (0, 2) for j in (1, 3, 4)]
    assert auroc(values, wanted) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(values, np.zeros(5, dtype=bool)))


def test_exits_that_know_beat_chance_and_one_exit_that_costs_as_much() -> None:
    what, units = heard(headroom=True)
    exits = np.where(what.scores[:, 0] > -0.45, 0, np.where(what.scores[:, 1] > -0.7, 1, 2))
    found = compared(what, exits, units)
    rows, shares = np.arange(NUM_CLIPS), np.bincount(exits) / NUM_CLIPS
    assert found.acc == pytest.approx(what.right[rows, exits].mean())
    assert found.macs == pytest.approx(np.dot(shares, COSTS))
    rng, drawn = np.random.default_rng(1), []
    for _ in range(400):
        drawn.append(what.right[rows, rng.permutation(exits)].mean())
    assert found.over_random.value == pytest.approx(found.acc - np.mean(drawn), abs=0.005)
    assert found.over_random.low > 0
    dearer = next(place for place, macs in enumerate(COSTS) if macs >= found.macs)
    assert found.over_one is not None
    assert found.over_one.value == pytest.approx(found.acc - what.right[:, dearer].mean())
    assert [one.share for one in found.exits] == pytest.approx(shares.tolist())
    auroc, gain = found.exits[0].auroc, found.exits[0].gain
    assert auroc is not None
    assert gain is not None
    assert (auroc > 0.9, gain > 0.5) == (True, True)
    assert (found.exits[2].auroc, found.exits[2].gain) == (None, None)
    assert found.oracle[0] == pytest.approx(what.right.any(axis=1).mean())
    assert found.oracle[0] >= found.acc
    assert (found.errors > 2, found.best, found.warnings) == (True, 2, [])


def test_without_headroom_the_cheapest_static_model_is_recommended() -> None:
    what, units = heard(headroom=False)
    found = compared(what, np.zeros(NUM_CLIPS, dtype=int), units)
    assert (found.errors, found.best) == (0.0, 0)
    assert found.warnings[0].startswith("no headroom: the best exit is right in +0.000 of the clips more")


def test_an_evaluation_of_exits_has_their_controls(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, tones, "early_exit")
    folder = evaluate(run)
    told = json.loads((folder / "metrics.json").read_text())["exits"]
    assert told["acc"] == pytest.approx(json.loads((folder / "metrics.json").read_text())["test"]["acc"])
    assert sum(one["share"] for one in told["exits"]) == pytest.approx(1.0)
    out = capsys.readouterr().out
    assert "What each exit is worth, if all clips left by it" in out
    assert "headroom" in out
