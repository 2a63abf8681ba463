"""One row per clip: `clips.csv`, from which every report of a run is drawn, and groups of such rows.

Lists stand in one field, parted by blanks. `route` has a letter per layer: x ran, > was landed on (and ran), - jumped
over. Shares of compute are sums over clips: sum of `macs` / sum of `dense_macs`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from lightning.pytorch import Trainer
from torch import Tensor

from hopscotch.data.datamodule import AudioDataModule
from hopscotch.files import write_csv
from hopscotch.intervals import Interval, Units, ratio_interval, share_interval
from hopscotch.plain import read_csv, sentence, shown
from hopscotch.report.collect import Evaluation
from hopscotch.report.decisions import LAYERS, LETTERS, history_cells
from hopscotch.report.statistics import quantile_groups
from hopscotch.report.text import Table

CELLS = {letter: cell for cell, letter in LETTERS.items()}
NUM_GROUPS = 5  # of clips by duration or loudness
ENDS = {"seconds": "{:.2f} to {:.2f} s", "decibels": "{:.0f} to {:.0f} dB"}  # how such a group is called
SHARED = "group"  # column, after those of the task, of what clips share: Clip.shared
CLASS_WORDS = {"label": "is", "prediction": "taken for"}
EXPLAINED = {"cheapest": 0.0, "median": 0.5, "costliest": 1.0}  # clips with a page of their own -> their rank by cost
PARSERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("compute", "loss", "seconds", "decibels"), float),
    **dict.fromkeys(("macs", "dense_macs"), int),
    **dict.fromkeys(("strides", "history"), lambda text: [int(word) for word in text.split()]),
    "open_rate": lambda text: [float(word) for word in text.split()],
}


@dataclass(frozen=True)
class SplitClips:
    """Names and sounds of the clips of one split, by index."""

    datamodule: AudioDataModule
    split: Literal["val", "test"]

    @property
    def sample_rate(self) -> int:
        return self.datamodule.sample_rate

    @property
    def classes(self) -> Sequence[str]:
        return self.datamodule.classes

    def name(self, index: int) -> str:
        return self.datamodule.clips[self.split][index].name

    def shared(self, index: int) -> str | None:
        return self.datamodule.clips[self.split][index].shared

    def waveform(self, index: int) -> Float[Tensor, " sample"]:
        """Unaugmented samples."""
        return self.datamodule.waveform(self.split, index)


def clips_of(trainer: Trainer, split: Literal["val", "test"]) -> SplitClips:
    """Look up the clips that a trainer evaluates."""
    datamodule = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in fit
    assert isinstance(datamodule, AudioDataModule), "reports need an AudioDataModule, not bare loaders"
    return SplitClips(datamodule, split)


class ClipRow(NamedTuple):
    """What a model made of a clip."""

    path: str  # as the data module calls the clip: relative to the data's root
    rows: dict[str, Any]  # what the task says of the clip, by column: label, prediction, confidence
    compute: float  # fraction of the dense multiply-accumulates
    strides: list[int]  # by layer; 0 where it had no attention, or did not run
    history: list[int]  # layers landed on by jumping
    route: str
    open_rate: list[float]  # share of the tokens open, by layer; NaN without a gate
    loss: float
    macs: int
    dense_macs: int
    seconds: float
    decibels: float  # root mean square against full scale

    @property
    def has_classes(self) -> bool:
        return {"label", "prediction"} <= self.rows.keys()

    @property
    def shared(self) -> str | None:
        """What other clips may share with this one, such as `speaker: ann`."""
        return self.rows.get(SHARED) or None

    @property
    def label(self) -> str:
        return self.rows["label"]

    @property
    def prediction(self) -> str:
        return self.rows["prediction"]

    @property
    def confidence(self) -> float:
        """Probability of the prediction; NaN where the task gives none."""
        return self.rows.get("confidence", math.nan)

    @property
    def is_right(self) -> bool:
        return self.prediction == self.label


def clip_rows(evaluation: Evaluation, clips: SplitClips) -> list[ClipRow]:
    """Make the rows of an evaluation, in its order. Every clip is read once more, for its level."""
    trace = evaluation.trace
    histories, fractions, cells = trace.histories, trace.fraction, history_cells(trace)
    told = {name: column.tolist() for name, column in evaluation.rows.items()}
    if taken := told.keys() & {"path", SHARED, *OWN_COLUMNS}:
        raise ValueError(f"rows() of a task must not name a column as clips.csv does, got {sorted(taken)[0]}.")
    if evaluation.has_classes:
        told |= {name: [clips.classes[place] for place in told[name]] for name in ("label", "prediction")}
    indices = evaluation.indices.tolist()
    if any(shared := [clips.shared(index) for index in indices]):
        told[SHARED] = shared
    rows = []
    for i, index in enumerate(indices):
        waveform = clips.waveform(index)
        rows.append(
            ClipRow(
                path=clips.name(index),
                rows={name: column[i] for name, column in told.items()},
                compute=float(fractions[i]),
                strides=trace.strides[i].tolist(),
                history=histories[i],
                route="".join(LETTERS[cell] for cell in cells[i].tolist()),
                open_rate=trace.open_rate[i].tolist(),
                loss=float(evaluation.losses[i]),
                macs=int(trace.macs[i]),
                dense_macs=int(trace.dense_macs[i]),
                seconds=len(waveform) / clips.sample_rate,
                decibels=decibels(waveform),
            )
        )
    return rows


OWN_COLUMNS = ClipRow._fields[2:]  # of clips.csv, beside the path and those of the task


def decibels(waveform: Tensor) -> float:
    """Root mean square against full scale; minus infinity for silence."""
    power = waveform.double().square().mean().item()
    return 10 * math.log10(power) if power > 0 else -math.inf


def write_clips(rows: Sequence[ClipRow], path: Path) -> None:
    """Write a table of clips; the columns of the task come after the path."""
    heads = ["path", *(rows[0].rows if rows else ()), *OWN_COLUMNS]
    cells = ([row.path, *row.rows.values(), *row[2:]] for row in rows)
    write_csv(path, heads, ([" ".join(map(str, c)) if isinstance(c, list) else c for c in row] for row in cells))


def read_clips(path: Path) -> list[ClipRow]:
    """Read what `write_clips` wrote, to the last digit."""
    found = []
    for row in read_csv(path, ("path", *OWN_COLUMNS)):
        told = {name: parse_cell(name, text) for name, text in row.items() if name not in ("path", *OWN_COLUMNS)}
        try:
            own = {name: PARSERS.get(name, str)(row[name]) for name in OWN_COLUMNS}
        except ValueError as error:
            raise ValueError(f"{shown(path)} must be as a run of this version writes it: {sentence(error)}") from None
        found.append(ClipRow(row["path"], told, **own))
    return found


def parse_cell(name: str, text: str) -> str | float:
    """Read a cell of a task: a class is a word, be it a digit; anything else a number, if it is one."""
    if name in ("label", "prediction", SHARED):
        return text
    try:
        return float(text)
    except ValueError:
        return text


def route_in_words(letters: str) -> str:
    """Layers that ran, in order, with a jump marked where there was one: `0 1 ⤳ 4 5`."""
    words = {"x": "{}", ">": "⤳ {}"}
    return " ".join(words[letter].format(layer) for layer, letter in enumerate(letters) if letter in words)


def strides_in_words(strides: Sequence[int]) -> str:
    """Stride per layer, in order, with a dot where the layer did not attend: `1 2 · 4`."""
    return " ".join(str(stride) if stride else "·" for stride in strides)


def decision_words(skips: frozenset[str], route: str, strides: Sequence[int]) -> dict[str, str]:
    """Say by column what was decided, in the columns that a model has."""
    layers = {"layers that ran": route_in_words(route)} if skips & LAYERS else {}
    return layers | ({"strides": strides_in_words(strides)} if "strides" in skips else {})


def clip_table(rows: Sequence[ClipRow], skips: frozenset[str]) -> Table:
    """Tell of single clips what the task says of them, what that cost and what was decided."""
    cells = [
        {"clip": row.path}
        | {CLASS_WORDS.get(name, name): f"{v:.3f}" if isinstance(v, float) else str(v) for name, v in row.rows.items()}
        | {"compute": f"{row.compute:.3f}", "seconds": f"{row.seconds:.2f}"}
        | decision_words(skips, row.route, row.strides)
        for row in rows
    ]
    words = ["clip", *CLASS_WORDS.values(), *decision_words(skips, "", ())]
    return Table.of(cells, words)._replace(clips=[row.path for row in rows])


def cells_of(rows: Sequence[ClipRow]) -> UInt8[np.ndarray, "clip depth"]:
    """Turn the routes of clips into cells, as in the picture of jump histories."""
    return np.array([[CELLS[letter] for letter in row.route] for row in rows], dtype=np.uint8)


def strides_of(rows: Sequence[ClipRow]) -> Int[np.ndarray, "clip depth"]:
    return np.array([row.strides for row in rows])


def open_rates_of(rows: Sequence[ClipRow]) -> Float[np.ndarray, "clip depth"]:
    return np.array([row.open_rate for row in rows])


@dataclass(frozen=True)
class Group:
    """Some clips, and how right and how costly they were together."""

    name: str
    rows: tuple[ClipRow, ...]

    @property
    def accuracy(self) -> float:
        return sum(row.is_right for row in self.rows) / len(self.rows)

    @property
    def units(self) -> Units:
        """What the intervals are over."""
        return Units.of([row.shared for row in self.rows])

    @property
    def quality(self) -> tuple[str, Interval]:
        """How good the answers were, with the name of that: the accuracy or, without classes, the loss."""
        if self.rows[0].has_classes:
            return "accuracy", share_interval([row.is_right for row in self.rows], self.units)
        losses, units = [row.loss for row in self.rows], self.units
        ends = ratio_interval(units.totals(losses), units.totals([1.0] * len(losses)))
        return "loss", Interval(sum(losses) / len(losses), *ends, units.words)

    @property
    def compute(self) -> float:
        return sum(row.macs for row in self.rows) / sum(row.dense_macs for row in self.rows)

    @property
    def compute_interval(self) -> tuple[float, float]:
        """NaN for a single clip or group."""
        units = self.units
        return ratio_interval(*(units.totals([getattr(row, n) for row in self.rows]) for n in ("macs", "dense_macs")))

    @property
    def macs(self) -> float:
        """Mean per clip."""
        return sum(row.macs for row in self.rows) / len(self.rows)


def by_class(rows: Sequence[ClipRow], classes: Sequence[str]) -> list[Group]:
    """Group by label, in the order of `classes`; classes without clips are left out."""
    found: dict[str, list[ClipRow]] = {name: [] for name in classes}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return [Group(name, tuple(members)) for name, members in found.items() if members]


def by_value(rows: Sequence[ClipRow], column: Literal["seconds", "decibels"]) -> list[Group]:
    """Group by size; a group is named by its smallest and largest value."""
    values, groups = [getattr(row, column) for row in rows], []
    for members in quantile_groups(values, NUM_GROUPS):
        found = [values[member] for member in members]
        name = ENDS[column].format(min(found), max(found))
        groups.append(Group(name, tuple(rows[member] for member in members)))
    return groups


class Route(NamedTuple):
    """Clips that ran the same layers with the same strides."""

    letters: str  # as in clips.csv
    strides: tuple[int, ...]
    group: Group


def routes_of(rows: Sequence[ClipRow]) -> list[Route]:
    """Group by route, the most used first."""
    found: dict[tuple[str, tuple[int, ...]], list[ClipRow]] = {}
    for row in rows:
        found.setdefault((row.route, tuple(row.strides)), []).append(row)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [Route(letters, strides, Group("", tuple(members))) for (letters, strides), members in ordered]


def confusions(rows: Sequence[ClipRow]) -> list[tuple[tuple[str, str], int]]:
    """((label, prediction), clips) of what was wrong, the most frequent first."""
    return Counter((row.label, row.prediction) for row in rows if not row.is_right).most_common()


def by_cost(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """Sort from the smallest share of the dense compute to the largest; of equal ones the cheaper clip first."""
    return sorted(rows, key=lambda row: (row.compute, row.macs))


def surely_wrong(rows: Sequence[ClipRow]) -> list[ClipRow]:
    """Pick the wrong ones, the most confident first."""
    return sorted(
        (row for row in rows if not row.is_right), key=lambda row: (-row.rows.get("confidence", 0), -row.loss)
    )


def explained_clips(rows: Sequence[ClipRow]) -> dict[str, ClipRow]:
    """Choose the clips that have a page of their own."""
    ordered = by_cost(rows)
    return {word: ordered[round(rank * (len(ordered) - 1))] for word, rank in EXPLAINED.items()}


def explained_file(word: str) -> str:
    return f"explain_{word}.svg"
