"""Find the clips on which runs disagree, the surest disagreement first.

A column of several seeds predicts what most of its runs do; of equally many, what they are surer of together. Its
confidence is the mean over the runs that say so, its compute the mean over all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from hopscotch.files import write_csv
from hopscotch.report.clips import ClipRow
from hopscotch.report.records import group

Rows = Mapping[str, Sequence[ClipRow]]  # of a column: by clip, the row of each run


class Verdict(NamedTuple):
    """Hold the verdict of a column on a clip."""

    prediction: str
    confidence: float
    compute: float
    votes: str  # runs that say so of all, "2/3"


class Disagreement(NamedTuple):
    """Hold a clip with the verdict of every column."""

    path: str
    label: str
    verdicts: list[Verdict]

    @property
    def sureness(self) -> float:
        """Return how sure the less sure of the two surest contradicting columns is."""
        best: dict[str, float] = {}
        for verdict in self.verdicts:
            best[verdict.prediction] = max(verdict.confidence, best.get(verdict.prediction, 0.0))
        return sorted(best.values())[-2]


def verdict_of(rows: Sequence[ClipRow]) -> Verdict:
    """Join the rows of one clip, one from each run of a column."""
    said = group(rows, by=lambda row: row.prediction)
    prediction = max(said, key=lambda name: (len(said[name]), sum(row.confidence for row in said[name])))
    votes = said[prediction]
    confidence, compute = mean(row.confidence for row in votes), mean(row.compute for row in rows)
    return Verdict(prediction, confidence, compute, f"{len(votes)}/{len(rows)}")


def disagreements(columns: Sequence[Rows]) -> list[Disagreement]:
    """Find the clips that columns predict differently."""
    found = []
    for path, rows in columns[0].items():
        verdicts = [verdict_of(column[path]) for column in columns]
        if len({verdict.prediction for verdict in verdicts}) > 1:
            found.append(Disagreement(path, rows[0].label, verdicts))
    return sorted(found, key=lambda clip: -clip.sureness)


def write_disagreements(letters: Sequence[str], clips: Sequence[Disagreement], path: Path) -> None:
    """Write a table with the verdicts of all columns."""
    heads = [f"{name} {letter}" for letter in letters for name in Verdict._fields]
    rows = ([clip.path, clip.label, *(cell for v in clip.verdicts for cell in v)] for clip in clips)
    write_csv(path, ["path", "label", *heads], rows)
