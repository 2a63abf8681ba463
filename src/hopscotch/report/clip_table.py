"""What a model made of every clip, a row each: `clips.csv`, from which every report of a run is drawn.

Lists stand in one field, parted by blanks. `route` has a letter per layer: x ran, > was landed on (and ran), - jumped
over. Shares of compute are sums over clips: sum of `macs` / sum of `dense_macs`.
"""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from hopscotch import plain
from hopscotch.report.clips import SplitClips
from hopscotch.report.numbers import JUMPED_OVER, LANDED, RAN, history_cells
from hopscotch.report.traces import Evaluation

FILE = "clips.csv"
LETTERS = {RAN: "x", LANDED: ">", JUMPED_OVER: "-"}
CELLS = {letter: cell for cell, letter in LETTERS.items()}


class ClipRow(NamedTuple):
    path: str  # as the data module calls the clip: relative to the data's root
    label: str
    prediction: str
    confidence: float  # probability of the prediction
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
    def is_right(self) -> bool:
        return self.prediction == self.label

    @property
    def cells(self) -> UInt8[np.ndarray, " depth"]:
        """What happened at every layer, as in the picture of jump histories."""
        return np.array([CELLS[letter] for letter in self.route], dtype=np.uint8)


def clip_rows(evaluation: Evaluation, clips: SplitClips) -> list[ClipRow]:
    """In the order of the split. Reads every clip once more, for its level."""
    trace = evaluation.trace
    histories, fractions, cells = trace.histories, trace.fraction, history_cells(trace)
    rows = []
    for i, index in enumerate(evaluation.indices.tolist()):
        waveform = clips.waveform(index)
        rows.append(
            ClipRow(
                path=clips.name(index),
                label=clips.word(int(evaluation.labels[i])),
                prediction=clips.word(int(evaluation.predictions[i])),
                confidence=float(evaluation.confidences[i]),
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


def decibels(waveform: Tensor) -> float:
    """Root mean square against full scale; minus infinity for silence."""
    power = waveform.double().square().mean().item()
    return 10 * math.log10(power) if power > 0 else -math.inf


def write_clips(rows: Iterable[ClipRow], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ClipRow._fields)
        writer.writerows(
            [plain.quoted(" ".join(map(str, c)) if isinstance(c, list) else c) for c in row] for row in rows
        )


def read_clips(path: Path) -> list[ClipRow]:
    """What `write_clips` wrote, to the last digit."""
    return [_parsed(row) for row in plain.read_csv(path, ClipRow._fields)]


def _parsed(row: dict[str, str]) -> ClipRow:
    return ClipRow(
        path=row["path"],
        label=row["label"],
        prediction=row["prediction"],
        confidence=float(row["confidence"]),
        compute=float(row["compute"]),
        strides=[int(stride) for stride in row["strides"].split()],
        history=[int(layer) for layer in row["history"].split()],
        route=row["route"],
        open_rate=[float(rate) for rate in row["open_rate"].split()],
        loss=float(row["loss"]),
        macs=int(row["macs"]),
        dense_macs=int(row["dense_macs"]),
        seconds=float(row["seconds"]),
        decibels=float(row["decibels"]),
    )
