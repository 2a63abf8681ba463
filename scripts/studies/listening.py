"""Compare models that listen to recordings without end: what they miss, and what a second of audio costs them.

    python -m scripts.studies listening RUN RUN ... --out outputs/listening
    python -m scripts.studies listening RUN RUN ... --out outputs/listening --duty 1 5 20 --gates
    python -m scripts.studies listening RUN RUN ... --out outputs/listening --time

Runs are those of task=detect on data=streams, with `model.stage`: models that are always on, and, with
`model.stage.awake_rate=1`, static ones. Each is tested at every duty, the percentage of the time that has keywords,
with as many distractors. Thresholds for 0.5 and 2 false alarms an hour, and those of the gates, come from the
validation recordings of the same duty. What is finished is kept in <out>/counts.csv, a row for each recording; the
tables, which join runs that differ in their seed, are made of it.

`--gates` puts other gates in front of the full model of each run: all (always open), oracle (the events), random (as
much as the model's own gate opens), energy and, where `silero-vad` is installed (pip install -e .[vad]), a detector of
speech. The last two open as many of the validation events as the own gate does. Besides, seconds awake are measured
on distractors alone and on background alone.

`--time` measures milliseconds for a second of audio on one thread, all runs in turn, front end included.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from hopscotch.cli import find_run
from hopscotch.data.datamodule import Split
from hopscotch.detection import RATES, Counts, Recording, choose, count, errors
from hopscotch.evaluate import load
from hopscotch.intervals import Interval, Units, ratio_bootstrap
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.spans import widened
from hopscotch.report.text import Table, make_console, markdown, print_table
from hopscotch.training.detect import DetectionTask
from hopscotch.types import AudioBatch, Decisions, valid_mask

EVENT_SECONDS = 0.6  # about what a keyword lasts: one a minute is a duty of 1 %
SPEECH_RATE, SPEECH_CHUNK = 16_000, 512  # Hz and samples that silero-vad takes
KINDS = ("own", "all", "oracle", "random", "energy", "speech")
SOUNDS = {"distractors": (0.0, 5.0), "background": (0.0, 0.0)}  # events and distractors a minute
Rows = Any  # a DataFrame, about whose columns pandas' types know nothing
ROUNDS, TIMED = 9, 5  # measurements of each run, and recordings in each


class Heard(NamedTuple):
    """Hold what a run makes of a split."""

    recordings: list[Recording]
    macs: np.ndarray  # of each recording
    opened: np.ndarray  # share of its time, and number of its events


def main(arguments: Sequence[str]) -> None:
    """Run `python -m scripts.studies listening`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies listening", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=find_run, nargs="+")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--duty", type=float, nargs="+", default=[1.0], metavar="PERCENT")
    parser.add_argument("--gates", action="store_true", help="put other gates in front of the full models, too")
    parser.add_argument("--time", action="store_true", help="measure milliseconds, and nothing else")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kinds = [kind for kind in KINDS if kind != "speech" or can_hear_speech()] if given.gates else ["own"]
    given.out.mkdir(parents=True, exist_ok=True)
    if given.time:
        write_times(given.runs, given.out / "times.csv")
    elif not given.table:
        for run in given.runs:
            for duty in given.duty:
                measure(run, duty, given.out / "counts.csv", kinds)
            if given.gates:
                measure_sounds(run, given.out / "awake.csv")
    show(given.out)


# What a run makes of recordings.


class Loaded(NamedTuple):
    """Hold a run with recordings of some duty."""

    name: str  # what it is but for its seed
    seed: int
    task: DetectionTask
    model: AlwaysOn
    batches: Callable[[Split], Iterable[AudioBatch]]


def load_at(run: Path, events: float, distractors: float) -> Loaded:
    """Load a run, with so many events and distractors a minute."""
    cfg, task, data = load(run, [f"data.events_per_minute={events}", f"data.distractors_per_minute={distractors}"])
    if not isinstance(task, DetectionTask) or not isinstance(task.model, AlwaysOn):
        raise ValueError(f"a run must have task=detect and model.stage, got {run}.")
    kind = "always on" if task.model.decides else "static"
    loaders = {"val": data.val_dataloader, "test": data.test_dataloader}
    name = f"{kind}, {cfg.model.depth} x {cfg.model.dim}"
    return Loaded(name, cfg.seed, task, task.model, lambda split: loaders[split]())


@dataclass
class Gate:
    """Open the units whose scores, widened to spans, are above a threshold."""

    scores: Callable[[AlwaysOn, AudioBatch, Tensor], Tensor]  # of each unit of each recording
    threshold: float = 0.0

    def widened(self, model: AlwaysOn, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        units = -(-model.frontend.frames(batch.lengths) // model.unit)
        scores = self.scores(model, batch, units)
        return widened(scores, model.ahead, model.behind), units

    def decisions(self, model: AlwaysOn, batch: AudioBatch) -> Decisions:
        scores, units = self.widened(model, batch)
        is_open = (scores > self.threshold) & valid_mask(units, scores.shape[1])
        nothing = torch.zeros(len(units), model.depth, dtype=torch.long)
        return Decisions(nothing + 1, nothing.to(torch.int8), is_open, units)

    def open_as_much(self, loaded: Loaded, share: float) -> None:
        """Set the threshold so that this share of the validation recordings' time is open."""
        found = [self.widened(loaded.model, batch)[0].flatten() for batch in loaded.batches("val")]
        self.threshold = float(torch.cat(found).quantile(1 - share))

    def catch_as_many(self, loaded: Loaded, share: float) -> None:
        """Set the threshold so that this share of the validation events is open."""
        size, best = loaded.model.unit * loaded.model.frontend.hop, []
        for batch in loaded.batches("val"):
            scores, _ = self.widened(loaded.model, batch)
            rows = zip(scores, batch.labels.tolist(), strict=True)
            best += [
                float(row[a // size : -(-b // size)].max()) for row, events in rows for a, b, c in events if c >= 0
            ]
        self.threshold = float(np.quantile(best, 1 - share, method="lower")) - 1e-6


@torch.inference_mode()
def hear(loaded: Loaded, split: Split, gate: Gate | None = None) -> Heard:
    """Run a model over a split, with its own gate or another."""
    model, recordings, macs, awake = loaded.model, [], [], []
    for batch in loaded.batches(split):
        repeat = None if gate is None else gate.decisions(model, batch)
        output = model(batch.waveform, batch.lengths, repeat=repeat)
        recordings += loaded.task.recordings(output, batch)
        macs.append(output.trace.macs + output.frontend_macs)
        tokens, units = output.trace.decisions.tokens, output.trace.decisions.positions
        assert tokens is not None
        assert units is not None
        awake.append(opened(loaded, tokens, units, batch))
    return Heard(recordings, torch.cat(macs).numpy(), np.concatenate(awake))


def opened(loaded: Loaded, tokens: Tensor, units: Tensor, batch: AudioBatch) -> np.ndarray:
    """Return for each recording the share of its time that is open, and how many of its events are."""
    size = loaded.model.unit * loaded.model.frontend.hop
    caught = [
        sum(bool(row[start // size : -(-end // size)].any()) for start, end, label in events if label >= 0)
        for row, events in zip(tokens, batch.labels.tolist(), strict=True)
    ]
    return np.stack([(tokens.sum(dim=1) / units).numpy(), np.array(caught)], axis=1)


# Gates.


def everything(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    return torch.ones(len(units), int(units.max()))


def of_events(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score the units of events by 1, all others by -1."""
    scores, size = -torch.ones(len(units), int(units.max())), model.unit * model.frontend.hop
    for row, events in zip(scores, batch.labels.tolist(), strict=True):
        for start, end, label in events:
            if label >= 0:
                row[start // size : -(-end // size)] = 1.0
    return scores


def drawn(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units at random, recordings by their index."""
    rows = [torch.rand(int(units.max()), generator=torch.Generator().manual_seed(int(i))) for i in batch.indices]
    return torch.stack(rows)


def energy(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units by the logarithm of their power."""
    return by_unit(model, batch, units).square().mean(dim=2).clamp(min=1e-10).log10()


def speech(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    """Score units by the probability of speech that silero-vad gives, chunk by chunk."""
    detector = speech_detector()
    detector.reset_states()
    chunks = F.pad(batch.waveform, (0, -batch.waveform.shape[1] % SPEECH_CHUNK)).unflatten(1, (-1, SPEECH_CHUNK))
    said = torch.cat([detector(chunk, SPEECH_RATE) for chunk in chunks.unbind(1)], dim=1)
    by_sample = said.repeat_interleave(SPEECH_CHUNK, dim=1)[:, : batch.waveform.shape[1]]
    return by_unit(model, batch._replace(waveform=by_sample), units).amax(dim=2)


def by_unit(model: AlwaysOn, batch: AudioBatch, units: Tensor) -> Tensor:
    size, most = model.unit * model.frontend.hop, int(units.max())
    return F.pad(batch.waveform, (0, max(0, most * size - batch.waveform.shape[1])))[:, : most * size].unflatten(
        1, (most, size)
    )


@cache
def speech_detector() -> Any:
    from silero_vad import load_silero_vad  # pyright: ignore[reportMissingImports]  # an extra

    return load_silero_vad()


def make_gate(kind: str, loaded: Loaded, own: Heard) -> Gate | None:
    """Make a gate, with what it needs to know from the validation recordings."""
    if kind == "own":
        return None
    gate = Gate({"all": everything, "oracle": of_events, "random": drawn, "energy": energy, "speech": speech}[kind])
    if kind == "random":
        gate.open_as_much(loaded, float(own.opened[:, 0].mean()))
    if kind in ("energy", "speech"):
        num_events = sum(len(one.events) for one in own.recordings)
        gate.catch_as_many(loaded, float(own.opened[:, 1].sum()) / num_events)
    return gate


# Measurements.


def measure(run: Path, duty: float, file: Path, kinds: Sequence[str]) -> None:
    """Test a run at a duty in percent, with each kind of gate that is not in the file yet."""
    rate = duty / 100 * 60 / EVENT_SECONDS
    loaded, done = load_at(run, rate, rate), read(file)
    kinds = [kind for kind in kinds if not has(done, run=run.name, duty=duty, gate=kind)]
    if not kinds:
        return
    own = hear(loaded, "val")
    for kind in kinds if loaded.model.decides else ["own"]:
        gate = make_gate(kind, loaded, own)
        found = errors((own if gate is None else hear(loaded, "val", gate)).recordings)
        thresholds = np.array([choose(found, rate) for rate in RATES])
        heard = hear(loaded, "test", gate)
        rows = pd.DataFrame([count(one, thresholds) for one in heard.recordings], columns=list(Counts._fields))
        rows = rows.assign(macs=heard.macs, awake=heard.opened[:, 0], caught=heard.opened[:, 1])
        facts = {"run": run.name, "what": loaded.name, "seed": loaded.seed, "duty": duty, "gate": kind}
        append(file, rows.assign(recording=range(len(rows)), **facts))


def measure_sounds(run: Path, file: Path) -> None:
    """Measure how long a run's own gate and those of equal recall are open where there is nothing to find."""
    if has(read(file), run=run.name):
        return
    at = load_at(run, 1.0, 1.0)
    if not at.model.decides:
        return
    own = hear(at, "val")
    gates = {
        kind: make_gate(kind, at, own) for kind in ("own", "energy", "speech") if kind != "speech" or can_hear_speech()
    }
    for sound, rates in SOUNDS.items():
        loaded = load_at(run, *rates)
        for kind, gate in gates.items():
            awake = hear(loaded, "test", gate).opened[:, 0]
            facts = {"run": run.name, "what": loaded.name, "seed": loaded.seed, "sound": sound, "gate": kind}
            append(file, pd.DataFrame({"awake": awake}).assign(recording=range(len(awake)), **facts))


def write_times(runs: Sequence[Path], file: Path) -> None:
    """Time all runs in turn on the same recordings of the test."""
    loaded = [load_at(run, 1.0, 1.0) for run in runs]
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


def can_hear_speech() -> bool:
    return find_spec("silero_vad") is not None


def read(file: Path) -> Rows:
    return pd.read_csv(file) if file.is_file() else pd.DataFrame()


def has(rows: Rows, **facts: object) -> bool:
    return len(rows) > 0 and bool((rows[list(facts)] == pd.Series(facts)).all(axis=1).any())


def append(file: Path, rows: Rows) -> None:
    rows.to_csv(file, mode="a", header=not file.is_file(), index=False)


# Tables.


def show(folder: Path) -> None:
    """Print what there is, and write it into the folder as Markdown."""
    tables = []
    if len(counts := read(folder / "counts.csv")):
        tables += [
            ("What is missed, and what it costs", misses(counts)),
            ("Beside static models", beside_static(counts)),
        ]
    if len(awake := read(folder / "awake.csv")):
        tables.append(("Share of the time awake where there is nothing to find", awake_table(awake)))
    if len(times := read(folder / "times.csv")):
        tables.append(("Milliseconds for a second of audio", time_table(times)))
    tables = [(title, table) for title, table in tables if table.rows]
    for title, table in tables:
        print(f"\n{title}")
        print_table(table, make_console())
    (folder / "tables.md").write_text("\n\n".join(f"{title}:\n\n{markdown(table)}" for title, table in tables) + "\n")


def misses(counts: Rows) -> Table:
    """Make a row for each model, duty and gate, seeds joined."""
    rows = []
    for (duty, what, gate), some in counts.groupby(["duty", "what", "gate"]):
        by_seed = some.groupby("seed")
        each = " ".join(f"{one:.3f}" for one in 1 - by_seed.missed_2.sum() / by_seed.events.sum())
        macs = some.macs.sum() / some.hours.sum() / 3600 / 1e6
        alarms, hits_05 = some.false_2.sum() / some.hours.sum(), 1 - some.missed_05.sum() / some.events.sum()
        caught = some.caught.sum() / some.events.sum()
        numbers = [f"{macs:.2f}", f"{some.awake.mean():.3f}", f"{caught:.3f}", interval(hits(some)), each]
        rows.append([f"{duty:g} %", what, gate, *numbers, f"{alarms:.1f}", f"{hits_05:.3f}"])
    heads = ["duty", "model", "gate", "M MACs a second", "awake", "events open", "hits at 2 an hour", "by seed"]
    return Table([*heads, "false alarms an hour", "hits at 0.5"], rows)


def beside_static(counts: Rows) -> Table:
    """Compare models that are always on with the cheapest static one that misses no more, or with the one of fewest."""
    rows = []
    is_own = counts.gate == "own"
    for duty, at in counts[is_own].groupby("duty"):
        static, own = at[at.what.str.startswith("static")], at[at.what.str.startswith("always")]
        missed = (static.groupby("what").missed_2.sum() / static.groupby("what").events.sum()).to_dict()
        macs = (static.groupby("what").macs.sum() / static.groupby("what").hours.sum()).to_dict()
        for what, some in own.groupby("what") if missed else ():
            share = some.missed_2.sum() / some.events.sum()
            enough = [name for name, other in missed.items() if other <= share]
            chosen = min(enough, key=macs.__getitem__) if enough else min(missed, key=missed.__getitem__)
            other = static[static.what == chosen]
            why = "cheapest with no more misses" if enough else "fewest misses"
            more = ratio(other, some, "macs")
            rows.append([f"{duty:g} %", what, f"{chosen} ({why})", interval(more), interval(gained(some, other))])
            full = counts[(counts.duty == duty) & (counts.what == what) & (counts.gate == "all")]
            if len(full):
                rows.append(
                    [
                        f"{duty:g} %",
                        what,
                        "its full model, always on",
                        interval(ratio(full, some, "macs")),
                        interval(gained(some, full)),
                    ]
                )
    return Table(["duty", "model", "beside", "times the MACs", "hits more"], rows)


def awake_table(awake: Rows) -> Table:
    """Make a row for each model and sound: the share of time awake by gate, and how the own one differs."""
    rows = []
    for (what, sound), some in awake.groupby(["what", "sound"]):
        means = some.groupby(["gate", "recording"]).awake.mean().unstack("gate")
        units = Units.of([None] * len(means))
        for gate in [one for one in means.columns if one != "own"]:
            less = ratio_bootstrap((means[gate] - means.own).to_numpy(), np.ones(len(means)), units)
            rows.append([what, sound, gate, f"{means.own.mean():.3f}", f"{means[gate].mean():.3f}", interval(less)])
    return Table(
        ["model", "sound", "gate", "own gate", "that gate", "seconds that the own gate sleeps more, of one"], rows
    )


def time_table(times: Rows) -> Table:
    """Make a row for each model; ratios are of the same turn, to the first model that is always on."""
    by_turn = times.groupby(["what", "turn"]).ms.mean().unstack("what")
    first = next((name for name in by_turn.columns if name.startswith("always")), by_turn.columns[0])
    ratios = by_turn.div(by_turn[first], axis=0)
    rows = [
        [what, f"{by_turn[what].median():.3f}", f"{one.median():.2f} ({one.min():.2f} to {one.max():.2f})"]
        for what, one in ratios.items()
    ]
    return Table(["model", "ms", f"times {first}"], rows)


def hits(rows: Rows) -> Interval:
    """Return the share of events with an alarm; the interval is over recordings, which all seeds share."""
    sums = rows.groupby("recording")[["missed_2", "events"]].sum().astype(float)
    return ratio_bootstrap(
        (sums.events - sums.missed_2).to_numpy(), sums.events.to_numpy(), Units.of([None] * len(sums))
    )


def ratio(above: Rows, below: Rows, column: str) -> Interval:
    """Divide what two models cost a second; they may have different numbers of seeds."""
    parts, wholes = (rows.groupby("recording")[column].mean().to_numpy() for rows in (above, below))
    return ratio_bootstrap(parts, wholes, Units.of([None] * len(parts)))


def gained(rows: Rows, other: Rows) -> Interval:
    """Subtract the hits of another model, as a share of the events, recording by recording."""
    missed = [some.groupby("recording").missed_2.mean().to_numpy() for some in (other, rows)]
    events = rows.groupby("recording").events.mean().to_numpy()
    return ratio_bootstrap(missed[0] - missed[1], events, Units.of([None] * len(events)))


def interval(one: Interval) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"
