"""Show training clips as they come out of augmentation: one page, to see and hear before anything is trained."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from omegaconf import DictConfig
from torch import Tensor

from hopscotch.build import build_data, make
from hopscotch.config.absent import refuse_absent_paths, refuse_absent_targets
from hopscotch.config.check import refuse_missing
from hopscotch.config.compose import compose
from hopscotch.data.audio import AudioFileError
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import Batches, ClipStore
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.data.events import Events, events_in, part_of
from hopscotch.files import write_file
from hopscotch.plain import shown
from hopscotch.report.page import render_html
from hopscotch.report.paint import COLOURS
from hopscotch.report.run_page import MAX_SECONDS, THUMBNAIL, seen_and_heard
from hopscotch.report.text import Table
from hopscotch.types import AudioBatch, key_bits

NUM_CLIPS, NUM_STREAMS = 24, 6
STREAM_SECONDS = 60.0  # of a recording with events that are seen and heard; of other clips it is `MAX_SECONDS`
WIDE = 720, 48  # pixels of the picture of such a recording
SEEN_THROUGH = "66"  # how much of a span's colour covers the picture
VERSIONS = {"as it is": None, "first epoch": 0, "second epoch": 1}  # column -> epoch that is shown
WORDS = ("label", "clip", *VERSIONS)  # columns that are no numbers


def look(words: Sequence[str], out: Path, num_clips: int | None = None) -> Path:
    """Write the page of the configuration that `words` override, as for training; the seed draws the clips.

    Raises:
        ValueError: names what is wrong with the configuration or the data.
    """
    cfg = compose(words)
    refuse_missing(cfg)
    refuse_absent_paths(cfg)
    refuse_absent_targets(cfg)
    data = build_data(cfg)
    data.setup("validate")  # finds all clips; training clips are decoded when they are drawn
    num_clips = num_clips or (NUM_STREAMS if data.has_events else NUM_CLIPS)
    found, versions = data.clips["train"], Versions(cfg, data)
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(key_bits(cfg.seed)))[:num_clips]
    rows = [versions.row(index) for index in sorted(drawn.tolist())]
    context = {
        "title": "Training clips as they come out of augmentation",
        "subtitle": shlex.join(["hopscotch", "look", *words]),
        "headline": [("training clips, of which these were drawn", f"{len(rows)} of {len(found)}")],
        "warnings": [] if data.augment or cfg.augment.spectrogram else ["This configuration augments nothing."],
        "seconds": f"{versions.seconds:g}",
        "has_events": data.has_events,
        "clips": Table.of(rows, WORDS),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, render_html("look.html.j2", context))
    return out


class Versions:
    """Draw and encode training clips, as they are and as an epoch gets them."""

    def __init__(self, cfg: DictConfig, data: AudioDataModule) -> None:
        store = ClipStore(data.clips["train"], data.load)
        self.data = data
        self.plain, self.augmented = (
            Batches(store, data.seed, augment, data.num_classes, longest=data.longest)
            for augment in (None, data.augment)
        )
        self.frontend = make(cfg.frontend)
        self.spectrogram = None if cfg.augment.spectrogram is None else make(cfg.augment.spectrogram)
        self.seconds, self.size = (STREAM_SECONDS, WIDE) if data.has_events else (MAX_SECONDS, THUMBNAIL)
        self.num_frames = round(self.seconds / cfg.frontend.hop_seconds)

    def row(self, index: int) -> dict[str, str]:
        """Show one clip."""
        clip, classes = self.data.clips["train"][index], self.data.classes
        names = (classes[name] if isinstance(name, int) else f"{name:g}" for name in clip.labels)
        label = ", ".join(dict.fromkeys(names) if clip.events else names)
        row = {"label": label, "clip": clip.name, "seconds": f"{clip.num_samples / self.data.sample_rate:.2f}"}
        return row | {head: self.version(index, epoch) for head, epoch in VERSIONS.items()}

    def version(self, index: int, epoch: int | None) -> Markup:
        """Show a clip as an epoch gets it, and say what is drawn for it there; None: as it is."""
        rate, batches = self.data.sample_rate, self.plain if epoch is None else self.augmented
        try:
            batch = batches.__getitems__([(epoch or 0, index)])
        except AudioFileError as error:
            return Markup("<div>{}</div>").format(shown(error))
        mel = self.mel(batch) if epoch is None else self.masked(batch)
        waveform = batch.waveform[0, : round(self.seconds * rate)]
        drawn, player = seen_and_heard(mel[0, : self.num_frames], waveform, rate, self.size)
        told = [] if batches.augment is None else words_of(batches.augment, batch.keys, rate)
        if self.data.has_events:
            events = part_of(events_in(batch.labels[0]), 0, len(waveform))
            drawn = with_spans(drawn, events, self.data.classes, len(waveform), self.size[0])
            told += [
                f"{one.start / rate:.2f} to {one.end / rate:.2f} s: {self.data.classes[one.label]}" for one in events
            ]
        return drawn + player + Markup("").join(Markup("<div>{}</div>").format(line) for line in told)

    def mel(self, batch: AudioBatch) -> Float[Tensor, "1 time mel"]:
        return self.frontend(batch.waveform, batch.lengths)[0]

    def masked(self, batch: AudioBatch) -> Float[Tensor, "1 time mel"]:
        """Mask and tilt as training does, but with a bin's mean over the clip instead of over the training set."""
        mel = self.mel(batch)
        if self.spectrogram is None:
            return mel
        mean = mel.mean(dim=1, keepdim=True)
        return mean + self.spectrogram(mel - mean, torch.tensor([mel.shape[1]]), batch.keys)


def with_spans(drawn: Markup, events: Events, classes: Sequence[str], num_samples: int, width: int) -> Markup:
    """Lay the spans of events over a picture that is `width` pixels wide, in a colour for each class."""
    span = Markup(
        '<i title="{}" style="position:absolute;top:0;bottom:0;left:{:.2f}%;width:{:.2f}%;background:{}"></i>'
    )
    spans = [
        span.format(
            shown(classes[one.label]),
            100 * one.start / num_samples,
            100 * (one.end - one.start) / num_samples,
            COLOURS[one.label % len(COLOURS)] + SEEN_THROUGH,
        )
        for one in events
    ]
    box = Markup('<div style="position:relative;width:{}px">{}{}</div>')
    return box.format(width, drawn, Markup("").join(spans))


def words_of(augment: WaveformAugment, keys: Tensor, sample_rate: int) -> list[str]:
    """Say what is drawn for the waveform of a single key."""
    drawn = augment.draw(keys)
    values: dict[str, Any] = {name: part[0].tolist() for name, part in drawn._asdict().items()}
    told = [f"speed {float(augment.speeds[values['speed']]):g}, gain {round(values['gain_db'], 1) + 0.0:+.1f} dB"]
    if values["before"] or values["after"]:
        silences = (f"{1000 * values[side] / sample_rate:.0f} ms {side}" for side in ("before", "after"))
        told.append(f"silence {', '.join(silences)}")
    if augment.impulse_responses is not None and values["is_in_room"]:
        told.append(f"in {augment.impulse_responses.name(values['room'])}")
    if values["is_noisy"]:
        source = f"{values['colour']:.0%} pink" if augment.noise is None else augment.noise.name(values["recorded"][0])
        told.append(f"noise at {values['snr_db']:.0f} dB, {source}")
    return told
