"""Look at audio data before training on them: decode every clip once, and say what there is and what is wrong.

index.html   the page
audit.json   the same as plain data, with every name
clips.csv    a row for each clip

What training refuses is found by training's own checks; here are measures of sound, equal sounds and class names.
"""

import hashlib
import math
import os
import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hopscotch.build import build_data
from hopscotch.config.absent import refuse_absent_paths
from hopscotch.config.check import refuse_missing
from hopscotch.config.compose import compose, new_folder
from hopscotch.data import leaks
from hopscotch.data.audio import AudioFileError, cancels, opened, raw_blocks
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import FRAME_SECONDS, SPLITS, AudioDataModule, Split
from hopscotch.data.rows import RowSource
from hopscotch.files import write_csv, write_file
from hopscotch.plain import sentence, shown
from hopscotch.progress import with_progress
from hopscotch.report import text
from hopscotch.report.page import render_html

PAGE, JSON, CLIPS = "index.html", "audit.json", "clips.csv"
NEAR_FULL = 0.99  # of full scale; a sample here that repeats the one before is clipped
CLIPPED = 1e-3  # share of the samples of a clip, from which it is named
OFFSET, OF_RMS = 0.01, 0.2  # of full scale, and of the clip's root mean square: a mean that is named
QUIET_FRAME = 0.02  # seconds
QUIET_DB = -60.0  # of full scale, below which a frame is called silent
MOSTLY = 0.8  # share of silent frames from which a clip is named
FEW = 10  # training clips of a class
QUANTILES = {"least": 0.0, "5 %": 0.05, "half": 0.5, "95 %": 0.95, "most": 1.0}
MAX_SHOWN = 200  # names of a finding on the page; the JSON has all
FOUND, UNREADABLE = 1, 2  # exit codes


class Sound(NamedTuple):
    """Hold what decoding a clip told."""

    format: str  # of the file, with the type of its samples
    rate: int  # Hz
    channels: int
    seconds: float
    rms_db: float  # of the channels' mean, full scale being 0
    peak: float  # of any channel
    clipped: float  # share of the samples
    offset: float  # mean of the channel with the largest
    silent: float  # share of its frames
    is_silent: bool  # digitally, the channels averaged
    is_cancelled: bool
    digest: str  # equal for equal sounds: rate and samples


class Finding(NamedTuple):
    """Say what is wrong, and with what."""

    kind: str
    names: Sequence[str]  # of clips, pairs or classes, each with what there is to say
    stops: bool = False  # training refuses it


class Meter:
    """Add up the blocks of a clip."""

    def __init__(self, rate: int, channels: int) -> None:
        self.frame = max(1, round(QUIET_FRAME * rate))
        self.count, self.clipped, self.frames, self.silent = 0, 0, 0, 0
        self.of_mean, self.of_channels, self.peak = 0.0, 0.0, 0.0
        self.sums = np.zeros(channels)
        self.digest = hashlib.blake2b(f"{rate}".encode(), digest_size=16)

    def add(self, block: Float[np.ndarray, "frame channel"]) -> None:
        """Take the next frames."""
        mean = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        self.digest.update(np.ascontiguousarray(mean).tobytes())
        self.count += len(block)
        self.sums += block.sum(axis=0, dtype=np.float64)
        squares = np.square(mean, dtype=np.float64)
        self.of_mean += float(squares.sum())
        self.of_channels += float(np.square(block, dtype=np.float64).sum()) / block.shape[1]
        loud = np.abs(block)
        self.peak = max(self.peak, float(loud.max(initial=0.0)))
        self.clipped += int(((loud[1:] >= NEAR_FULL) & (block[1:] == block[:-1])).sum())
        whole = squares[: max(self.frame, len(squares) // self.frame * self.frame)]  # a short clip is one frame
        levels = whole.reshape(-1, min(self.frame, len(whole))).mean(axis=1)
        self.frames += len(levels)
        self.silent += int((levels < 10 ** (QUIET_DB / 10)).sum())

    def sound(self, kind: str, rate: int) -> Sound:
        """Return what all blocks came to."""
        mean_square = self.of_mean / self.count
        return Sound(
            format=kind,
            rate=rate,
            channels=len(self.sums),
            seconds=self.count / rate,
            rms_db=10 * math.log10(mean_square) if mean_square else -math.inf,
            peak=self.peak,
            clipped=self.clipped / (self.count * len(self.sums)),
            offset=float(np.abs(self.sums).max() / self.count),
            silent=self.silent / self.frames,
            is_silent=mean_square == 0,
            is_cancelled=len(self.sums) > 1 and cancels(self.of_mean, self.of_channels),
            digest=self.digest.hexdigest(),
        )


def measured(clip: Clip, data: AudioDataModule) -> Sound | AudioFileError:
    """Decode a clip as it is in its file, every channel at its own rate; a source without files makes it."""
    if clip.path is None:
        meter = Meter(data.sample_rate, 1)
        meter.add(data.load(clip).numpy()[:, None])
        return meter.sound("made by the source", data.sample_rate)
    try:
        with opened(clip.path) as file:
            begin, end, rate = 0, file.frames, file.samplerate
            if clip.start is not None:
                begin = clip.start * rate // data.sample_rate
                end = min(end, -(-(clip.start + clip.num_samples) * rate // data.sample_rate))
            meter = Meter(rate, file.channels)
            for block in raw_blocks(clip.path, file, begin, end):
                meter.add(block)
            return meter.sound(f"{file.format} {file.subtype}", rate)
    except AudioFileError as error:
        return error


class Audit:
    """Listen to all clips of a source, and keep what was found."""

    def __init__(self, data: AudioDataModule) -> None:
        self.data = data
        found = data.clips_of_rows() if isinstance(data, RowSource) else data.find_clips()
        self.classes, self.all_clips = found
        self.bad = data.bad_files()
        self.sounds: list[tuple[Split, Clip, Sound]] = []
        placed: list[tuple[Split, Clip]] = [(split, clip) for split in SPLITS for clip in self.all_clips[split]]
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            results = pool.map(partial(measured, data=data), [clip for _, clip in placed])
            for (split, clip), result in zip(placed, with_progress(results, len(placed), "Listening"), strict=True):
                if isinstance(result, AudioFileError):
                    self.bad.append((split, clip.name, result))
                else:
                    self.sounds.append((split, clip, result))
        finally:
            pool.shutdown(cancel_futures=True)
        if not placed and not self.bad:
            raise ValueError("data must have at least one clip, got none.")
        self.silent = [name for _, name, _ in self._where(lambda sound: sound.is_silent)]
        self.usable = [one for one in self.sounds if data.silent_ok or not one[2].is_silent]

    def _where(self, holds: Any) -> list[tuple[Split, str, Sound]]:
        return [(split, clip.name, sound) for split, clip, sound in self.sounds if holds(sound)]

    def findings(self) -> list[Finding]:
        """List all that is wrong, what stops training first."""
        heard = [one for one in self.sounds if not one[2].is_silent]
        found = [
            Finding("unreadable or lying files", [str(error) for _, _, error in self.bad], stops=True),
            Finding("silent clips", [] if self.data.silent_ok else self.silent, stops=True),
            Finding("files in two splits by a link", list(leaks.linked(self._filed(), self.data.index)), stops=True),
            Finding(
                "splits without a usable clip", [split for split in SPLITS if not self._clips()[split]], stops=True
            ),
            Finding("validation without an event, by which thresholds are chosen", self._eventless(), stops=True),
            *self._of_classes(),
            *copies(heard, self.named),
            Finding("groups in training and in validation or test", leaks.groups_on_both_sides(self.all_clips)),
            *(
                Finding(kind, [f"{name} ({told(sound)})" for _, name, sound in self._where(holds)])
                for kind, holds, told in MEASURES
            ),
            Finding("names of classes that are nearly the same", near_names(self.classes)),
        ]
        return sorted((finding for finding in found if finding.names), key=lambda finding: not finding.stops)

    def _filed(self) -> dict[Split, list[Clip]]:
        return {split: [c for c in clips if c.path is not None] for split, clips in self.all_clips.items()}

    def named(self, clip: Clip) -> str:
        """Write the label of a clip as its source has it; of events each class once."""
        is_number = self.data.labels == "number"
        names = (f"{one:g}" if is_number or isinstance(one, float) else self.classes[one] for one in clip.labels)
        return ", ".join(dict.fromkeys(names))

    def table(self) -> dict[str, dict[Split, int]]:
        """Count the usable clips of each class in each split; a number has no classes."""
        counts = {name: dict.fromkeys(SPLITS, 0) for name in self.classes}
        for split, clip, _ in self.usable:
            for one in set(clip.labels):
                counts[self.classes[one if isinstance(one, int) and self.data.labels != "number" else 0]][split] += 1
        return counts

    def _clips(self) -> Counter[Split]:
        return Counter(split for split, *_ in self.usable)

    def _eventless(self) -> list[str]:
        """List the validation recordings of a task that hears events if none of them has one."""
        clips = [clip for split, clip, _ in self.usable if split == "val"] if self.data.has_events else []
        return [] if any(clip.events for clip in clips) else [clip.name for clip in clips]

    def _of_classes(self) -> Iterator[Finding]:
        if self.data.labels == "number":
            return
        table = self.table()
        yield Finding(
            "classes without a usable training clip", [n for n, c in table.items() if not c["train"]], stops=True
        )
        few = [f"{name} ({count['train']})" for name, count in table.items() if 0 < count["train"] < FEW]
        yield Finding(f"classes with fewer than {FEW} training clips", few)
        absent = [f"{name} ({split})" for name, c in table.items() for split in SPLITS[1:] if not c[split]]
        yield Finding("classes without a clip in validation or test", absent)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data."""
        sounds = [sound for _, _, sound in self.usable]
        seconds: dict[Split, float] = dict.fromkeys(SPLITS, 0.0)
        groups: dict[Split, set[str]] = {split: set() for split in SPLITS}
        for split, clip, sound in self.usable:
            seconds[split] += sound.seconds
            groups[split] |= set() if clip.group is None else {clip.group}
        clips = self._clips()
        bad = {split: sum(one[0] == split for one in [*self.bad, *self.sounds]) - clips[split] for split in SPLITS}
        return {
            "source": f"{type(self.data).__module__}.{type(self.data).__qualname__}",
            "has_files": bool(self.bad) or any(map(len, self._filed().values())),
            "clips": {split: clips[split] for split in SPLITS},
            "bad": bad,
            "seconds": {split: round(seconds[split], 3) for split in SPLITS},
            "classes": self.table(),
            "groups": {split: len(groups[split]) for split in SPLITS},
            "folds": counted(str(c.facts["fold"]) for _, c, _ in self.usable if "fold" in c.facts),
            "formats": counted(sound.format for sound in sounds),
            "rates": counted(str(sound.rate) for sound in sounds),
            "channels": counted(str(sound.channels) for sound in sounds),
            "seconds_of_a_clip": quantiles([sound.seconds for sound in sounds]),
            "rms_db": quantiles([sound.rms_db for sound in sounds if not sound.is_silent]),
            "longer_than_max_seconds": sum(sound.seconds > (self.data.max_seconds or math.inf) for sound in sounds),
            "findings": [finding._asdict() | {"count": len(finding.names)} for finding in self.findings()],
        }


# The kinds of odd sound: which clips they are, and what is said of each.
MEASURES = (
    (
        f"clipped clips, at least {CLIPPED:.1%} of their samples at full scale",
        lambda sound: sound.clipped >= CLIPPED,
        lambda sound: f"{sound.clipped:.1%}",
    ),
    (
        "channels that cancel each other (anti-phase)",
        lambda sound: sound.is_cancelled and not sound.is_silent,
        lambda sound: f"{sound.channels} channels",
    ),
    (
        f"mostly silent clips, over {MOSTLY:.0%} of their frames below {QUIET_DB:g} dB",
        lambda sound: sound.silent > MOSTLY and not sound.is_silent,
        lambda sound: f"{sound.silent:.0%}, {sound.rms_db:.0f} dB in all",
    ),
    (
        f"DC offsets of at least {OFFSET:.0%} of full scale",
        lambda sound: sound.offset >= max(OFFSET, OF_RMS * 10 ** (sound.rms_db / 20)),
        lambda sound: f"{sound.offset:.3f}",
    ),
    (
        f"clips shorter than a frame of {FRAME_SECONDS:g} s",
        lambda sound: sound.seconds < FRAME_SECONDS,
        lambda sound: f"{sound.seconds:.4f} s",
    ),
)


def copies(heard: Iterable[tuple[Split, Clip, Sound]], named: Any) -> Iterator[Finding]:
    """Find equal sounds: in two splits, under two labels, and twice in one split."""
    equal: dict[str, list[tuple[Split, Clip]]] = defaultdict(list)
    for split, clip, sound in heard:
        equal[sound.digest].append((split, clip))
    across, labels, within = [], [], []
    for same in equal.values():
        if len(same) < 2:
            continue
        if len({clip.labels for _, clip in same}) > 1:
            labels.append(" = ".join(f"{clip.name} ({named(clip)})" for _, clip in same))
        words = " = ".join(f"{clip.name} ({split})" for split, clip in same)
        (across if len({split for split, _ in same}) > 1 else within).append(words)
    yield Finding("equal sounds in two splits", across)
    yield Finding("equal sounds under different labels", labels)
    yield Finding("equal sounds in one split", within)


def near_names(classes: Iterable[str]) -> list[str]:
    """List classes whose names differ in case, blanks or signs alone."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        same[re.sub(r"[\W_]+", "", name).casefold() or name].append(name)
    return [" = ".join(map(repr, names)) for names in same.values() if len(names) > 1]


def counted(values: Iterable[str]) -> dict[str, int]:
    """Count values, the commonest first."""
    return dict(Counter(values).most_common())


def quantiles(values: Sequence[float]) -> dict[str, float]:
    return {name: round(float(np.quantile(values, share)), 4) for name, share in QUANTILES.items()} if values else {}


def main(words: Sequence[str]) -> int:
    """Audit the data that `words` choose, write the results, print what matters, and return the exit code."""
    out = next((word.removeprefix("out=") for word in words if word.startswith("out=")), None)
    try:
        cfg = compose([word for word in words if not word.startswith("out=")])
        refuse_missing(cfg)
        refuse_absent_paths(cfg)
        audit = Audit(build_data(cfg))
        name = str(cfg.data._target_).rpartition(".")[2]
        folder = Path(new_folder(f"audit_{name}") if out is None else out).expanduser()
        facts = audit.facts()
        write(folder, facts, audit, list(words))
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(error)}", file=sys.stderr)
        return UNREADABLE
    console = text.make_console()
    console.print()
    text.print_facts(headline(facts) | {"found": "; ".join(map(in_words, facts["findings"])) or "nothing"}, console)
    console.file.write(f"\n{shown(folder / PAGE)}\n")
    return FOUND if facts["findings"] else 0


def in_words(finding: Mapping[str, Any]) -> str:
    return f"{finding['count']} {finding['kind']}{' (stops training)' if finding['stops'] else ''}"


def headline(facts: Mapping[str, Any]) -> dict[str, str]:
    """Say how much there is."""
    clips, bad = facts["clips"], sum(facts["bad"].values())
    parts = ", ".join(f"{count:,} {split}" for split, count in clips.items())
    return {
        "clips": f"{sum(clips.values()):,}: {parts}" + (f" ({bad:,} bad)" if bad else ""),
        "hours": f"{sum(facts['seconds'].values()) / 3600:.2f}",
        "classes": f"{len(facts['classes']):,}",
        "files": ", ".join(facts["formats"]) if facts["has_files"] else "none: the source makes its clips itself",
    }


def write(folder: Path, facts: Mapping[str, Any], audit: Audit, words: Sequence[str]) -> None:
    """Write page, JSON and table."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / JSON, text.json_text({"typed": words, **facts}, indent=1) + "\n")
    rows = [(clip.name, split, audit.named(clip), *sound[:-1]) for split, clip, sound in audit.sounds]
    write_csv(folder / CLIPS, ("clip", "split", "label", *Sound._fields[:-1]), rows)
    write_file(folder / PAGE, render_html("audit.html.j2", context(facts, words)))


def context(facts: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Lay out what the page shows."""
    table, findings = text.Table.of, facts["findings"]
    shares = (("seconds of a clip", facts["seconds_of_a_clip"]), ("loudness, dB", facts["rms_db"]))
    kinds = [(kind, facts[kind]) for kind in ("formats", "rates", "channels", "folds")]
    of_splits = ("clips", "bad", "seconds", "groups")
    return {
        "title": f"Audit of {' '.join(words)}",
        "headline": list(headline(facts).items()),
        "warnings": [in_words(finding) for finding in findings if finding["stops"]],
        "findings": table(
            [
                {"what": f["kind"], "how many": f"{f['count']:,}", "training": "stops" if f["stops"] else ""}
                for f in findings
            ],
            words=("what", "training"),
        ),
        "named": [(in_words(f), f["names"][:MAX_SHOWN], f["count"] - MAX_SHOWN) for f in findings],
        "splits": table([{"": name, **{s: f"{facts[name][s]:,}" for s in SPLITS}} for name in of_splits], words=("",)),
        "classes": table(
            [{"class": n, **{s: f"{c[s]:,}" for s in SPLITS}} for n, c in facts["classes"].items()], words=("class",)
        ),
        "quantiles": table(
            [{"": name, **{q: text.number(v, 3) for q, v in found.items()}} for name, found in shares if found],
            words=("",),
        ),
        "kinds": [
            (kind, table([{kind: k, "clips": f"{n:,}"} for k, n in of.items()], words=(kind,)))
            for kind, of in kinds
            if of
        ],
        "longer": facts["longer_than_max_seconds"],
        "json_file": JSON,
        "command": shlex.join(["hopscotch", "audit", *words]),
    }
