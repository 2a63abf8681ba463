"""Compose long recordings of words in background from two other sources, when they are loaded: nothing is stored.

A recording is a function of (corpus_seed, split, index) and of the clips of its split alone.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.data.clips import Clip, some
from hopscotch.data.composition import Choice, Plan, Pools, Rules, Stretch, draw, heard, mix
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.events import NONE
from hopscotch.data.synthetic.words import keyed

log = logging.getLogger(__name__)


class Streams(AudioDataModule):
    """Put clips of one source into recordings of another.

    The classes are `keywords`, or all of the clips'; clips of other classes are distractors, which are no events. Every
    split has its own speakers, clips and background, or is refused.
    """

    has_events = True

    def __init__(
        self,
        *,
        clips: AudioDataModule,
        background: AudioDataModule,
        seconds: float,
        num_train: int,
        num_val: int,
        num_test: int,
        corpus_seed: int,
        keywords: Sequence[str] | None,
        distractors: bool,
        events_per_minute: float,
        distractors_per_minute: float,
        snr_db: Sequence[float],
        gain_db: float,
        train: Mapping[str, float | None],
        **common: Any,
    ) -> None:
        """Take the keys of conf/data/streams.yaml, and the arguments of `AudioDataModule` as `common`."""
        super().__init__(**common)
        self.sources = {"clips": clips, "background": background}
        for key, source in self.sources.items():
            if source.sample_rate != self.sample_rate:
                raise ValueError(
                    f"data.{key}.sample_rate must be data.sample_rate, {self.sample_rate}, got {source.sample_rate}."
                )
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.corpus_seed, self.keywords = corpus_seed, None if keywords is None else list(keywords)
        usual = {
            "seconds": seconds,
            "events_per_minute": events_per_minute,
            "distractors_per_minute": distractors_per_minute,
        }

        def rules(seconds: float, events_per_minute: float, distractors_per_minute: float) -> Rules:
            return Rules(
                num_samples=max(1, round(seconds * self.sample_rate)),
                sample_rate=self.sample_rate,
                num_keywords=events_per_minute * seconds / 60,
                num_distractors=distractors_per_minute * seconds / 60 if distractors else 0.0,
                snr_db=(float(snr_db[0]), float(snr_db[1])),
                gain_db=gain_db,
            )

        given = {key: value for key, value in train.items() if value is not None}
        of_test = rules(**usual)
        self.rules: dict[Split, Rules] = {"train": rules(**usual | given), "val": of_test, "test": of_test}
        self.plans: dict[str, Plan] = {}  # by the name of the recording

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Find and decode the clips of both sources, and plan all recordings."""
        for key, source in self.sources.items():
            try:
                source.setup()
            except ValueError as error:  # which tells of a key that is one of the source's here
                raise ValueError(str(error).replace("data.on_bad", f"data.{key}.on_bad")) from error
        refuse_shared(self.sources["clips"])
        background = unshared(self.sources["background"])
        found = self.sources["clips"].classes
        classes = found if self.keywords is None else self.keywords
        if unknown := [name for name in classes if name not in found]:
            raise ValueError(f"data.keywords must name classes of data.clips ({some(found)}), got {some(unknown)}.")
        clips: dict[Split, list[Clip]] = {}
        for split in SPLITS:
            by_class = self._choices(split, classes)
            pools = Pools(
                keywords=[made for name, made in by_class.items() if name in classes],
                distractors=[made for name, made in by_class.items() if name not in classes],
                background=background[split],
            )
            clips[split] = []
            for index in range(self.counts[split]):
                plan = draw(keyed(self.corpus_seed, f"stream {split}", index), self.rules[split], pools)
                name = f"{split}/{index:05d}"
                self.plans[name] = plan
                clips[split].append(Clip(name, NONE, self.rules[split].num_samples, events=plan.events))
        return list(classes), clips

    def load(self, clip: Clip) -> Float[Tensor, " sample"]:
        """Compose a recording."""
        split: Any = clip.name.partition("/")[0]
        word, background = (partial(self.sources[key].part, split) for key in ("clips", "background"))
        return torch.from_numpy(mix(self.plans[clip.name], self.rules[split], word, background))

    def summary(self) -> dict[str, object]:
        """Add how many distractors there are, and the summaries of the sources."""
        plans = {split: [self.plans[clip.name] for clip in clips] for split, clips in self.clips.items()}
        return super().summary() | {
            "distractors": {split: sum(len(plan.distractors) for plan in some) for split, some in plans.items()},
            "sources": {key: source.summary() for key, source in self.sources.items()},
        }

    def _choices(self, split: Split, classes: Sequence[str]) -> dict[str, list[Choice]]:
        """List what is heard in the clips of a split, by the name of their class."""
        source, made = self.sources["clips"], defaultdict(list)
        for index, clip in enumerate(source.clips[split]):
            assert isinstance(clip.label, int)
            name = source.classes[clip.label]
            label = classes.index(name) if name in classes else NONE
            if label != NONE or self.rules[split].num_distractors:
                span = heard(source.waveform(split, index), self.sample_rate)
                made[name].append(Choice(index, label, clip.num_samples, span))
        return dict(sorted(made.items()))


def refuse_shared(clips: AudioDataModule) -> None:
    """Refuse a source of clips of which two splits share a speaker, a group or a file."""
    if shared := sorted(unit for unit, found in _splits_of(clips).items() if len(found) > 1):
        raise ValueError(
            f"data.clips must have splits that share no speaker, group or recording, got {some(shared)} in two of "
            "them. data.clips.group_by=<column or pattern> keeps them apart, where the source has no split of its own."
        )


def unshared(background: AudioDataModule) -> dict[Split, list[Stretch]]:
    """List the background of each split; what has a recording of an earlier split is left out, and named."""
    splits, left_out, kept = _splits_of(background), [], {}
    for split in SPLITS:
        clips = list(enumerate(background.clips[split]))
        kept[split] = [Stretch(index, clip.num_samples) for index, clip in clips if splits[_unit(clip)][0] == split]
        left_out += [clip.name for _, clip in clips if splits[_unit(clip)][0] != split]
        if not kept[split]:
            raise ValueError(f"data.background must have a recording for {split} that no other split has, got none.")
    if left_out:
        log.warning(
            "data.background: %d clips are left out, of recordings that another split has, too: %s",
            len(left_out), some(left_out),
        )  # fmt: skip
    return kept


def _splits_of(source: AudioDataModule) -> dict[str, list[Split]]:
    """Map speakers, groups or recordings to the splits that have them."""
    found: dict[str, list[Split]] = defaultdict(list)
    for split in SPLITS:
        for unit in {_unit(clip) for clip in source.clips[split]}:
            found[unit].append(split)
    return found


def _unit(clip: Clip) -> str:
    return clip.shared or f"recording: {clip.name if clip.path is None else clip.path}"
