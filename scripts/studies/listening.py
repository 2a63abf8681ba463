"""Compare models that listen to recordings without end: what they miss, and what a second of audio costs them.

    python -m scripts.studies listening RUN RUN ... --out outputs/listening
    python -m scripts.studies listening RUN RUN ... --out outputs/listening --duty 1 5 20 --gates
    python -m scripts.studies listening RUN RUN ... --out outputs/listening --time

Runs are those of task=detect on data=streams, with `model.stage`: models that are always on, and, with
`model.stage.awake_rate=1`, static ones. Each is tested at every duty, the percentage of the time that has keywords,
with as many distractors. Thresholds for 0.5 and 2 false alarms an hour, and those of the gates, come from the
validation recordings of the same duty. What is finished is kept in <out>/counts.csv, a row for each recording; the
tables, which join runs that differ in their seed, are made of it.

`--gates` puts other gates in front of the full model of each run: its own one, opened for 95 or 99 % of the validation
events, all (always open), oracle (the events), random (as much as the own gate opens), energy and, where silero-vad is
installed (pip install -e .[vad]), a detector of speech. The last two open as many of the validation events as the own
gate does at 95 %. Besides, seconds awake are measured on distractors alone and on background alone. `--gates own "own,
95 %"` measures these two and nothing besides.

`--time` measures milliseconds for a second of audio on one thread, all runs in turn, at the first duty, front end
included.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hopscotch.cli import find_run
from hopscotch.detection import RATES, Counts, choose, count, errors
from scripts.studies.gates import EQUAL, KINDS, can_hear_speech, hear, load_at, make_gate
from scripts.studies.listening_table import Rows, read, show

EVENT_SECONDS = 0.6  # about what a keyword lasts: one a minute is a duty of 1 %
SOUNDS = {"distractors": (0.0, 5.0), "background": (0.0, 0.0)}  # events and distractors a minute
ROUNDS, TIMED = 9, 5  # measurements of each run, and recordings in each


def main(arguments: Sequence[str]) -> None:
    """Run `python -m scripts.studies listening`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies listening", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=find_run, nargs="+")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--duty", type=float, nargs="+", default=[1.0], metavar="PERCENT")
    parser.add_argument(
        "--gates", nargs="*", choices=KINDS, metavar="GATE", help="other gates in front of the full models; alone: all"
    )
    parser.add_argument("--time", action="store_true", help="measure milliseconds, and nothing else")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    asked = ["own"] if given.gates is None else given.gates or KINDS
    kinds = [kind for kind in asked if kind != "speech" or can_hear_speech()]
    given.out.mkdir(parents=True, exist_ok=True)
    if given.time:
        write_times(given.runs, given.duty[0], given.out / "times.csv")
    elif not given.table:
        for run in given.runs:
            for duty in given.duty:
                measure(run, duty, given.out / "counts.csv", kinds)
            if given.gates == []:
                measure_sounds(run, given.out / "awake.csv")
    show(given.out)


def measure(run: Path, duty: float, file: Path, kinds: Sequence[str]) -> None:
    """Test a run at a duty in percent, with each kind of gate that is not in the file yet."""
    loaded, done = load_at(run, rate_of(duty), rate_of(duty)), read(file)
    kinds = [kind for kind in kinds if not has(done, run=run.name, duty=duty, gate=kind)]
    if not kinds:
        return
    for kind in kinds if loaded.model.decides else ["own"]:
        gate = make_gate(kind, loaded)
        found = errors(hear(loaded, "val", gate).recordings)
        thresholds = np.array([choose(found, rate) for rate in RATES])
        heard = hear(loaded, "test", gate)
        rows = pd.DataFrame([count(one, thresholds) for one in heard.recordings], columns=list(Counts._fields))
        rows = rows.assign(macs=heard.macs, awake=heard.opened[:, 0], caught=heard.opened[:, 1])
        facts = {"run": run.name, "what": loaded.name, "seed": loaded.seed, "duty": duty, "gate": kind}
        append(file, rows.assign(recording=range(len(rows)), **facts))


def rate_of(duty: float) -> float:
    """Return the events a minute of a duty in percent."""
    return duty / 100 * 60 / EVENT_SECONDS


def measure_sounds(run: Path, file: Path) -> None:
    """Measure how long a run's own gate and those of equal recall are open where there is nothing to find."""
    if has(read(file), run=run.name):
        return
    at = load_at(run, 1.0, 1.0)
    if not at.model.decides:
        return
    kinds = [f"own, {100 * EQUAL:.0f} %", "energy", *["speech"] * can_hear_speech()]
    gates = {kind: make_gate(kind, at) for kind in kinds}
    for sound, rates in SOUNDS.items():
        loaded = load_at(run, *rates)
        for kind, gate in gates.items():
            awake = hear(loaded, "test", gate).opened[:, 0]
            facts = {"run": run.name, "what": loaded.name, "seed": loaded.seed, "sound": sound, "gate": kind}
            append(file, pd.DataFrame({"awake": awake}).assign(recording=range(len(awake)), **facts))


def write_times(runs: Sequence[Path], duty: float, file: Path) -> None:
    """Time all runs in turn on the same recordings of the test at a duty in percent."""
    loaded = [load_at(run, rate_of(duty), rate_of(duty)) for run in runs]
    batch = next(iter(loaded[0].batches("test")))
    clips = [(batch.waveform[row : row + 1], batch.lengths[row : row + 1]) for row in range(TIMED)]
    seconds = sum(int(lengths) for _, lengths in clips) / loaded[0].model.frontend.sample_rate
    rows = []
    for turn in range(-1, ROUNDS):  # the first warms up
        for run, one in zip(runs, loaded, strict=True):
            begun = time.perf_counter()
            with torch.inference_mode():
                for waveform, lengths in clips:
                    one.model(waveform, lengths)
            took = 1000 * (time.perf_counter() - begun) / seconds
            rows += [{"run": run.name, "what": one.name, "seed": one.seed, "turn": turn, "ms": took}] * (turn >= 0)
    pd.DataFrame(rows).to_csv(file, index=False)


def has(rows: Rows, **facts: object) -> bool:
    return len(rows) > 0 and bool((rows[list(facts)] == pd.Series(facts)).all(axis=1).any())


def append(file: Path, rows: Rows) -> None:
    rows.to_csv(file, mode="a", header=not file.is_file(), index=False)
