"""What a search goes by: validation accuracy under a compute target. The test has no say in it.

    score = val/acc                            where val/compute_fraction <= target + SLACK
          = target + SLACK - compute_fraction  where it is more: below zero, so nothing beyond the target beats what
                                               keeps it, and of two beyond it the nearer one is better

both of the epoch that is kept, the one of lowest validation loss. A model without decisions has no target to keep.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hopscotch.report.run_folder import METRICS as FILE_NAME
from hopscotch.report.run_folder import read_lines as read_metrics

SLACK = 0.01  # as a share of the dense compute: decisions of few layers cannot meet every fraction
FAILED = -1.0  # below every score: a search turns away from what fails


def score_of(run: Path, summary: Mapping[str, Any]) -> float:
    """FAILED for a run that came to no end, or never validated."""
    if summary["status"] != "finished" or not (run / FILE_NAME).is_file():
        return FAILED
    validated = [line for line in read_metrics(run / FILE_NAME) if line.get("val/loss") is not None]
    if not validated:
        return FAILED
    kept = min(validated, key=lambda line: line["val/loss"])
    target = (summary.get("compute") or {}).get("target")
    excess = 0.0 if target is None else kept["val/compute_fraction"] - target - SLACK
    return -excess if excess > 0 else kept["val/acc"]


def read_score(run: Path) -> float | None:
    """The score of a finished run from its folder; None for others."""
    if not (run / "summary.json").is_file():
        return None
    score = score_of(run, json.loads((run / "summary.json").read_text(encoding="utf-8")))
    return None if score == FAILED else score
