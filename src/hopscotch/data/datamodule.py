"""Turn clips into `AudioBatch`, as all data sources do. A source is a subclass with `find_clips`, and a YAML file."""

import gc
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import soundfile
import torch
from jaxtyping import Float
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Sampler

from hopscotch.data.audio import AudioFileError, channels_cancel, read_clip, read_part
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import MAX_NAMED, Batches, Clip, ClipStore, KeyedLoader, decode, load_part, some
from hopscotch.data.events import covered
from hopscotch.data.fingerprint import MOST_DECODED, MOST_LOOKED_AT, content, fingerprint
from hopscotch.data.index import Index
from hopscotch.data.sampling import Pair, Position, ShuffledBatches, SortedBatches
from hopscotch.data.store import Disk, InMemory
from hopscotch.data.windows import Windowing
from hopscotch.files import write_csv
from hopscotch.types import AudioBatch, key_bits

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Labels = Literal["one", "several", "number", "events"]  # of a clip: a class, any classes, a number, or when there are
BAD_AUDIO = "bad_audio.csv"  # the table of bad files, in a run's folder or an evaluation's
STAGES: dict[str | None, tuple[Split, ...]] = {"validate": ("val",), "test": ("test",)}  # before training: all
QUIET = 0.01  # root mean square of a clip, full scale being 1, below which its channels are looked at
MAX_STATISTICS_CLIPS = 500
MAX_GAIN_CLIPS = 4096
MAX_CALIBRATION_CLIPS = 256
USUAL = 8  # mean training clips per clip of a batch, up to which `batch_seconds=auto` takes clips as they come
BYTES_PER_SAMPLE = 4
SLOW = 1.0  # seconds of decoding a split, from which clips in memory are kept for the next start, too
FORMAT = 1  # of what is kept: another one where the same file gives other samples
FRAME_SECONDS = 0.025  # the window of the front end, unless it has been changed


class AudioDataModule(LightningDataModule):
    """Find, decode, batch and augment clips.

    A data source overrides `find_clips`, and `load` if its clips are not audio files.
    """

    has_events: ClassVar[bool] = False  # whether clips are recordings with events, for a task that hears when

    def __init__(
        self,
        *,
        sample_rate: int,
        batch_size: int,
        num_workers: int,
        cache_gib: float,
        seed: int,
        augment: WaveformAugment | None,
        labels: Labels = "one",
        on_bad: str = "raise",
        max_bad: float = 0.05,
        silent_ok: bool = False,
        max_seconds: float | None = None,
        batch_seconds: float | Literal["auto"] | None = None,
        balance: Literal["classes"] | None = None,
        timeout: float = 300.0,
    ) -> None:
        """Take the keys of conf/data, where each is explained, the seed of the run, and what changes training clips.

        `labels` says what the task takes for the label of a clip.
        """
        super().__init__()
        self.sample_rate = sample_rate
        self.batch_size = batch_size
        self.num_workers, self.timeout = num_workers, timeout
        self.cache_gib = cache_gib
        self.seed = seed
        self.augment = augment
        self.labels: Labels = labels
        if self.has_events != (labels == "events"):
            needed = (
                "has recordings with events, which need task=detect"
                if self.has_events
                else ("has no events, which task=detect needs: data=streams or data=events has")
            )
            raise ValueError(f"data: {type(self).__name__} {needed}.")
        self.on_bad, self.max_bad, self.silent_ok = on_bad, max_bad, silent_ok
        self.bad_audio: Path | None = None  # the file that names all bad ones
        if balance is not None and labels != "one":
            raise ValueError(f"data.balance={balance} needs clips of one class each, which this task has not.")
        self.balance = balance
        self.max_seconds, self.batch_seconds = max_seconds, batch_seconds
        self.longest = None if max_seconds is None else max(1, round(max_seconds * sample_rate))  # samples
        self.classes: list[str] = []
        self.clips: dict[Split, list[Clip]] = {}
        self._bad: dict[Split, dict[str, AudioFileError]] = {split: {} for split in SPLITS}  # by the name of the clip
        self.index = Index()
        self.disk: Disk | None = None  # of a source of files: kept in the cache folder
        self._reading = ""  # what the samples of a file depend on beyond the file
        self._order: list[str] | None = None
        self._stores: dict[Split, ClipStore] = {}
        self._fingerprint = ""
        self._content: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trainer, and with it the model, for loader workers that are spawned."""
        return {key: value for key, value in self.__dict__.items() if key != "trainer"}

    # For data sources, to override or call.

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Return the class names, and the clips of each split with exact `num_samples`."""
        raise NotImplementedError

    def load(self, clip: Clip) -> Float[Tensor, " sample"]:
        """Decode one clip; called from threads and loader workers, so it must not change anything."""
        assert clip.path is not None
        if clip.start is None:
            return read_clip(clip.path, self.sample_rate, silent_ok=self.silent_ok)
        silent_ok = self.silent_ok or clip.is_cut
        return read_part(clip.path, self.sample_rate, clip.start, clip.num_samples, silent_ok=silent_ok)

    def remember(self, folder: Path, root: Path) -> None:
        """Keep what is read of the files of `root` in `folder`, for the next start; call it in `find_clips`."""
        if type(self).load is not AudioDataModule.load:  # another way of reading, which may change
            self.disk = None
            return
        versions = FORMAT, soundfile.__libsndfile_version__, torch.__version__
        self._reading = repr((*versions, str(root.resolve()), self.sample_rate, self.silent_ok))
        self.index = Index(folder / f"{_hash(self._reading)}.json")

    # For the rest of the package.

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def name_classes(self, classes: Sequence[str]) -> None:
        """Fix the numbers of the classes to those of a trained model; call it before `setup`."""
        assert not self.clips
        self._order = list(classes)

    def setup(self, stage: str | None = None) -> None:
        """Find all clips, and decode those that the stage needs; later calls add what is missing."""
        with without_collection():  # which would look through the clips again and again, half of the time
            self._setup(stage)

    def _setup(self, stage: str | None) -> None:
        if not self.clips:
            self.classes, self.clips = self.find_clips()
            if self._order is not None:
                self.classes, self.clips = self._order, _renumbered(self.classes, self.clips, self._order)
            self._fingerprint = fingerprint(self.clips)
            self._tell_lengths()
            if stage == "fit" and not self.skipped:
                for split in SPLITS:
                    self._check_clips(split)  # what is missing is found before anything is decoded
        num_samples = sum(clip.num_samples for clips in self.clips.values() for clip in clips)
        fits, on_disk = self._fits(num_samples)
        missing: list[Split] = [split for split in STAGES.get(stage, SPLITS) if split not in self._stores]
        for split in missing:
            self._stores[split] = self._store(split, in_memory=fits, on_disk=on_disk)
            self.clips[split] = list(self._stores[split].clips)
        self.index.save()
        if missing:
            self._judge_bad(missing)
        for split in missing:
            self._check_clips(split)

    def waveform(self, split: Split, index: int) -> Float[Tensor, " sample"]:
        """Return a clip without augmentation: from memory if its split was decoded, else from its source."""
        store = self._stores.get(split)
        return self.load(self.clips[split][index]) if store is None else store[index]

    def part(self, split: Split, index: int, start: int, num_samples: int) -> Float[Tensor, " sample"]:
        """Return a part of a clip without augmentation, in the same way."""
        store = self._stores.get(split)
        return (ClipStore(self.clips[split], self.load) if store is None else store).part(index, start, num_samples)

    def first_window(self, clip: Clip) -> Float[Tensor, " sample"]:
        """Decode a clip, or the first `data.max_seconds` of it."""
        return load_part(clip, self.load, 0, self.longest)

    def train_dataloader(self) -> KeyedLoader:
        """Load shuffled, augmented training batches, from where training stands."""
        classes = None if self.balance is None else [clip.label for clip in self.clips["train"]]
        order = {"seed": self.seed, "position": self._position, "classes": classes}
        return self._loader("train", ShuffledBatches, self.augment, **order)

    def val_dataloader(self) -> KeyedLoader:
        """Load every validation clip once."""
        return self._loader("val", SortedBatches, None)

    def test_dataloader(self) -> KeyedLoader:
        """Load every test clip once."""
        return self._loader("test", SortedBatches, None)

    def statistics_batches(self) -> Iterator[AudioBatch]:
        """Make batches of up to 500 plain training clips, drawn by the seed, to measure the front end's scale."""
        return self._drawn_batches(MAX_STATISTICS_CLIPS, None)

    def gain_batches(self) -> Iterator[AudioBatch]:
        """Make batches of up to 4,096 augmented training clips, drawn by the seed, to measure what decisions cost."""
        return self._drawn_batches(MAX_GAIN_CLIPS, self.augment)

    def _drawn_batches(self, most: int, augment: WaveformAugment | None) -> Iterator[AudioBatch]:
        generator = torch.Generator().manual_seed(key_bits(self.seed))
        drawn = torch.randperm(len(self.clips["train"]), generator=generator)[:most].tolist()
        return self._sorted_batches("train", drawn, augment)

    def calibration_batches(self) -> Iterator[AudioBatch]:
        """Make batches of up to 256 validation clips of all lengths, the same on all ranks, to calibrate a budget."""
        lengths = self._lengths("val")
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        return self._sorted_batches("val", order[:: -(-len(order) // MAX_CALIBRATION_CLIPS)], None)

    def _sorted_batches(
        self, split: Split, indices: Sequence[int], augment: WaveformAugment | None
    ) -> Iterator[AudioBatch]:
        order = sorted(indices, key=self._lengths(split).__getitem__)
        batches, lengths, most = self._batches(split, augment), self._lengths(split), self._most()
        pairs: list[Pair] = []
        for index in order:
            is_full = most is not None and (len(pairs) + 1) * lengths[index] > most
            if pairs and (is_full or len(pairs) == self.batch_size):
                yield batches.__getitems__(pairs)
                pairs = []
            pairs.append((0, index))
        if pairs:
            yield batches.__getitems__(pairs)

    def mean_samples(self) -> float:
        """Average the lengths of the training clips."""
        lengths = self._lengths("train")
        return sum(lengths) / len(lengths)

    def longest_samples(self) -> int:
        """Return the length of the longest clip that is not cut."""
        return max(length for split in SPLITS for length in self._lengths(split))

    def fingerprint(self) -> str:
        """Return a hash of the names, labels, lengths and splits of all clips."""
        return self._fingerprint

    def content(self) -> Tensor:
        """Hash each clip, and of some what is heard in their middle (data/fingerprint.py)."""
        if self._content is None:
            is_at_hand = all(store.shelf is not None for store in self._stores.values())
            self._content = content(self.clips, self.part, MOST_LOOKED_AT if is_at_hand else MOST_DECODED)
        return self._content

    def summary(self) -> dict[str, object]:
        """Summarise the data for the run's summary.json."""
        samples = {split: sum(clip.num_samples for clip in clips) for split, clips in self.clips.items()}
        seconds = {split: round(total / self.sample_rate, 1) for split, total in samples.items()}
        return {
            "fingerprint": self._fingerprint,
            "classes": list(self.classes),
            "clips": {split: len(clips) for split, clips in self.clips.items()},
            "seconds": seconds,
            "kept": sorted({store.place for store in self._stores.values()}),
            "skipped": self.skipped,
            "bad": {split: len(bad) for split, bad in self._bad.items()},
            **(self._heard() if self.has_events else {}),
        }

    def _heard(self) -> dict[str, object]:
        """Count the events of each class, and say in which share of the time there are any."""
        events = {split: [clip.events or () for clip in clips] for split, clips in self.clips.items()}
        samples = {split: sum(clip.num_samples for clip in clips) for split, clips in self.clips.items()}
        counts = {split: Counter(one.label for some in found for one in some) for split, found in events.items()}
        return {
            "events": {s: {self.classes[one]: n for one, n in sorted(count.items())} for s, count in counts.items()},
            "duty": {s: round(sum(map(covered, found)) / max(1, samples[s]), 5) for s, found in events.items()},
        }

    @property
    def skipped(self) -> dict[str, str]:
        """Map the clips that are left out to the reason."""
        return {name: str(error) for bad in self._bad.values() for name, error in bad.items()}

    def bad_files(self) -> list[tuple[Split, str, AudioFileError]]:
        """List the clips that cannot be used, as far as they were looked at."""
        return [(split, name, error) for split in SPLITS for name, error in self._bad[split].items()]

    def num_bad(self, split: Split) -> int:
        """Count the clips of a split that are left out."""
        return len(self._bad[split])

    # Internals.

    def _fits(self, num_samples: int) -> tuple[bool, bool]:
        """Tell whether clips fit into the budget of memory, and into that of the cache folder."""
        gib = BYTES_PER_SAMPLE * num_samples / 2**30
        in_memory, on_disk = gib <= self.cache_gib, self.disk is not None and self.disk.fits(num_samples)
        if not in_memory and self.cache_gib and not self._stores:
            where = f"kept in {self.disk.folder}" if self.disk is not None and on_disk else "decoding on demand"
            log.info("Clips take %.2f GiB, more than data.cache_gib=%g: %s.", gib, self.cache_gib, where)
        return in_memory, on_disk

    def _store(self, split: Split, *, in_memory: bool, on_disk: bool) -> ClipStore:
        """Decode the files of a split that are not known to be good, for only that shows which are bad.

        Where there is room for the clips and they are not there yet, all are decoded and kept.
        """
        clips = self.clips[split]
        if not in_memory and all(clip.path is None for clip in clips):
            return ClipStore(clips, self.load)
        good = [clip for clip in clips if self.index.is_good(clip)]
        shelf = self.disk.find(self._key(good), _lengths(good)) if self.disk is not None and on_disk else None
        if shelf is None and (in_memory or on_disk):
            return self._build(split, in_memory=in_memory, on_disk=on_disk)
        more = self._decode(split, [clip for clip in clips if not self.index.is_good(clip)])
        if shelf is not None and more:  # files are new
            return self._store(split, in_memory=in_memory, on_disk=on_disk)
        return ClipStore([clip for clip in clips if self.index.is_good(clip)], self.load, shelf)

    def _build(self, split: Split, *, in_memory: bool, on_disk: bool) -> ClipStore:
        """Decode all clips of a split, and keep them: for this run in memory, and for later ones if that took long."""
        clips, begun = self.clips[split], time.monotonic()
        if in_memory:
            memory = InMemory(sum(_lengths(clips)))
            good = self._decode(split, clips, memory.add)
            shelf = memory.shelf()
            if self.disk is not None and on_disk and time.monotonic() - begun > SLOW:
                self.disk.keep(self._key(good), shelf)
            return ClipStore(good, self.load, shelf)
        assert self.disk is not None
        with self.disk.writer() as writer:
            good = self._decode(split, clips, writer.add)
            return ClipStore(good, self.load, writer.shelf(self._key(good)))

    def _decode(
        self, split: Split, clips: Sequence[Clip], keep: Callable[[Tensor], None] = lambda _: None
    ) -> list[Clip]:
        """Decode clips once, pass them to `keep`, and note what is said of them; return the good ones."""

        def on_good(clip: Clip, waveform: Tensor) -> None:
            is_quiet = clip.path is not None and float(waveform.square().mean()) < QUIET**2
            self.index.note_good(clip, cancels=is_quiet and clip.path is not None and channels_cancel(clip.path))
            keep(waveform)

        return decode(
            clips, self.load, on_bad=lambda clip, error: self._note_bad(split, clip.name, error), on_good=on_good
        )

    def _key(self, clips: Sequence[Clip]) -> str:
        """Hash all that the samples of the clips depend on."""
        return _hash(self._reading, *map(self.index.facts, clips))

    def _check_clips(self, split: Split) -> None:
        if not self.clips[split]:
            raise ValueError(f"data: the {split} split must hold at least one usable clip, got none.")
        if self.labels == "number":
            return
        labels = {label for clip in self.clips[split] for label in clip.labels}
        missing = [name for label, name in enumerate(self.classes) if label not in labels]
        if split == "train" and missing:
            raise ValueError(f"data: every class needs a usable training clip, got none of {', '.join(missing)}.")

    def _lengths(self, split: Split) -> list[int]:
        """List the samples of each clip that a model has before it at once."""
        lengths, longest = _lengths(self.clips[split]), self._longest(split)
        return lengths if longest is None else [min(length, longest) for length in lengths]

    def _longest(self, split: Split) -> int | None:
        """Return the most samples of a clip that are taken at once; events are judged in whole recordings."""
        return None if self.has_events and split != "train" else self.longest

    def _most(self) -> int | None:
        """Return how many samples a batch may come to with its padding; None: as its clips have it."""
        if self.batch_seconds is None:
            return None
        usual = USUAL * self.batch_size * self.mean_samples()
        return round(usual if isinstance(self.batch_seconds, str) else self.batch_seconds * self.sample_rate)

    def _tell_lengths(self) -> None:
        clips = [clip for split in SPLITS for clip in self.clips[split]]
        if self.longest is not None and (found := [clip.name for clip in clips if clip.num_samples > self.longest]):
            elsewhere = "whole" if self.has_events else "windowed"
            rule = f"longer than data.max_seconds={self.max_seconds:g}, cropped in training and {elsewhere} elsewhere"
            log.warning("data: %d clips are %s: %s", len(found), rule, some(found))
        frame = FRAME_SECONDS * self.sample_rate
        if found := [clip.name for clip in clips if clip.num_samples < frame]:
            log.warning("data: %d clips are shorter than a frame of %g s: %s", len(found), FRAME_SECONDS, some(found))

    def _batches(self, split: Split, augment: WaveformAugment | None, **options: Any) -> Batches:
        longest = self._longest(split)
        return Batches(self._stores[split], self.seed, augment, self.num_classes, longest=longest, **options)

    def _position(self) -> Position:
        return trainer_position(self.trainer) if self.trainer else Position(0, 0)

    def _loader(
        self, split: Split, sampler: Callable[..., Sampler[list[Pair]]], augment: WaveformAugment | None, **options: Any
    ) -> KeyedLoader:
        if self.trainer:
            options |= {"rank": self.trainer.global_rank, "num_ranks": self.trainer.world_size}
        longest = self._longest(split)
        starts = None if longest is None or split == "train" else Windowing(longest, longest, longest).starts
        lengths, most = self._lengths(split), self._most()
        if starts is not None:  # a row for each window
            most = self.batch_size * max(lengths) if most is None else most
            found = self.clips[split]
            lengths = [len(starts(clip.num_samples)) * one for clip, one in zip(found, lengths, strict=True)]
        drawn = sampler(lengths, self.batch_size, most=most, **options)
        batches = self._batches(split, augment, starts=starts)
        return KeyedLoader(batches, drawn, num_workers=self.num_workers, timeout=self.timeout)

    def _note_bad(self, split: Split, name: str, error: AudioFileError) -> None:
        self._bad[split][name] = error

    def _judge_bad(self, splits: Sequence[Split]) -> None:
        """Name all bad files at once: raise, or go on if they are few enough of each split."""
        if names := [clip.name for split in splits for clip in self.clips[split] if self.index.cancels(clip)]:
            told = (
                "the channels of %d clips cancel each other (anti-phase), which leaves nearly nothing of their mean: %s"
            )
            log.warning(f"data: {told}", len(names), some(names))
        rows = self.bad_files()
        if not rows:
            return
        is_written = self.bad_audio is not None and (self.on_bad == "skip" or len(rows) > MAX_NAMED)
        if self.bad_audio is not None and is_written:  # a refusal that names all leaves no folder
            table = [(split, name, error.kind, str(error)) for split, name, error in rows]
            rank_zero_only(write_csv)(self.bad_audio, ("split", "clip", "reason", "message"), table)
        errors = [error for _, _, error in rows]
        kinds = ", ".join(f"{count} ({kind})" for kind, count in Counter(e.kind for e in errors).most_common())
        where = f" {self.bad_audio} names all." if is_written else ""
        if self.on_bad == "raise":
            what = "" if len(errors) == 1 else f"data: {len(errors)} bad files: {kinds}. "
            first = " ".join(map(str, errors[:MAX_NAMED]))
            raise AudioFileError(f"{what}{first}{where} Repair or remove them, or pass data.on_bad=skip.")
        log.warning("data: %d bad files are left out: %s: %s.%s", len(errors), kinds, some([r[1] for r in rows]), where)
        for split in SPLITS:
            num_bad, num_good = len(self._bad[split]), len(self.clips[split])
            if num_bad > self.max_bad * (num_bad + num_good):
                raise AudioFileError(
                    f"data: at most data.max_bad={self.max_bad:g} of a split may be bad files, "
                    f"got {num_bad} of {num_bad + num_good} for {split}: {kinds}.{where}"
                )


@contextmanager
def without_collection() -> Iterator[None]:
    """Leave cycles of objects alone for a while."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _renumbered(found: list[str], clips: dict[Split, list[Clip]], wanted: list[str]) -> dict[Split, list[Clip]]:
    if unknown := [name for name in found if name not in wanted]:
        rule = f"data: the classes must be among the {len(wanted)} that the model was trained on"
        raise ValueError(f"{rule}, got {some(unknown)}.")
    if missing := [name for name in wanted if name not in found]:
        log.warning("data: %d of the %d classes have no clip here: %s", len(missing), len(wanted), some(missing))
    number = [wanted.index(name) for name in found]

    def renumbered(clip: Clip) -> Clip:
        label = clip.label
        if clip.events is not None:
            return replace(clip, events=tuple(one._replace(label=number[one.label]) for one in clip.events))
        if isinstance(label, tuple):
            return replace(clip, label=tuple(number[one] for one in label))
        return replace(clip, label=number[label]) if isinstance(label, int) else clip

    return {split: [renumbered(clip) for clip in part] for split, part in clips.items()}


def trainer_position(trainer: Trainer) -> Position:
    """Find the batch that training needs next, even while Lightning 2.6.6 is still restoring its counters.

    On resume the first iterator is built before the loops reset their counters, so `current_epoch` still names the old
    epoch if a checkpoint was written at an epoch's end. `processed` counts the batches that the weights have seen, in
    every kind of checkpoint: an epoch that is started and not processed is under way, unless its last batch is done.
    """
    state: Any = trainer  # Lightning's own hints do not know all of its attributes
    if state.overfit_batches > 0:
        return Position(0, 0)  # the same few batches over and over is the point
    epoch = state.fit_loop.epoch_progress.current
    batch = state.fit_loop.epoch_loop.batch_progress
    if epoch.started == epoch.processed:  # between epochs; the batch counter still shows the one before
        return Position(epoch.processed, 0)
    if batch.is_last_batch and batch.current.processed == batch.current.ready:
        return Position(epoch.processed + 1, 0)
    return Position(epoch.processed, batch.current.processed)


def _lengths(clips: Sequence[Clip]) -> list[int]:
    return [clip.num_samples for clip in clips]


def _hash(*parts: str) -> str:
    return hashlib.sha256("".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]
