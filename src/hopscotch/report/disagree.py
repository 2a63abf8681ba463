"""The clips on which runs disagree, the surest disagreement first.

A column of several seeds predicts what most of its runs do; of equally many, what they are surer of together. Its
confidence is the mean over the runs that say so, its compute the mean over all.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from hopscotch.report.clip_table import ClipRow
from hopscotch.report.compare import Column, clips_of_column


class Verdict(NamedTuple):
    """What a column makes of a clip."""

    prediction: str
    confidence: float
    compute: float
    votes: str  # runs that say so of all, "2/3"


class Disagreement(NamedTuple):
    path: str
    label: str
    verdicts: list[Verdict]  # by column

    @property
    def sureness(self) -> float:
        """How sure the least sure of two contradicting columns is, for the surest two."""
        best: dict[str, float] = {}
        for verdict in self.verdicts:
            best[verdict.prediction] = max(verdict.confidence, best.get(verdict.prediction, 0.0))
        return sorted(best.values())[-2]


def verdict_of(rows: Sequence[ClipRow]) -> Verdict:
    said: dict[str, list[float]] = {}
    for row in rows:
        said.setdefault(row.prediction, []).append(row.confidence)
    prediction = max(said, key=lambda name: (len(said[name]), sum(said[name])))
    votes = said[prediction]
    return Verdict(prediction, mean(votes), mean(row.compute for row in rows), f"{len(votes)}/{len(rows)}")


def voices(columns: Sequence[Column]) -> list[Column]:
    """Who may disagree: the columns, or, where there is only one, its runs."""
    if len(columns) > 1:
        return list(columns)
    return [Column(f"{columns[0].letter}{run.seed}", (run,)) for run in columns[0].runs]


def disagreements(columns: Sequence[Column]) -> list[Disagreement]:
    by_column = [clips_of_column(column) for column in columns]
    found = []
    for path, rows in by_column[0].items():
        verdicts = [verdict_of(of_clip[path]) for of_clip in by_column]
        if len({verdict.prediction for verdict in verdicts}) > 1:
            found.append(Disagreement(path, rows[0].label, verdicts))
    return sorted(found, key=lambda clip: -clip.sureness)


def write_disagreements(columns: Sequence[Column], clips: Sequence[Disagreement], path: Path) -> None:
    heads = [f"{name} {column.letter}" for column in columns for name in Verdict._fields]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *heads])
        writer.writerows([clip.path, clip.label, *(cell for v in clip.verdicts for cell in v)] for clip in clips)
