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
from hopscotch.plain import shown
from hopscotch.report.page import render_html
from hopscotch.report.run_page import MAX_SECONDS, seen_and_heard
from hopscotch.report.text import Table
from hopscotch.types import AudioBatch, key_bits

NUM_CLIPS = 24
VERSIONS = {"as it is": None, "first epoch": 0, "second epoch": 1}  # column -> epoch that is shown
WORDS = ("label", "clip", *VERSIONS)  # columns that are no numbers


def look(words: Sequence[str], out: Path, num_clips: int = NUM_CLIPS) -> Path:
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
    found, versions = data.clips["train"], Versions(cfg, data)
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(key_bits(cfg.seed)))[:num_clips]
    rows = [versions.row(index) for index in sorted(drawn.tolist())]
    context = {
        "title": "Training clips as they come out of augmentation",
        "subtitle": shlex.join(["hopscotch", "look", *words]),
        "headline": [("training clips, of which these were drawn", f"{len(rows)} of {len(found)}")],
        "warnings": [] if data.augment or cfg.augment.spectrogram else ["This configuration augments nothing."],
        "seconds": f"{MAX_SECONDS:g}",
        "clips": Table.of(rows, WORDS),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render_html("look.html.j2", context), encoding="utf-8")
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
        self.num_frames = round(MAX_SECONDS / cfg.frontend.hop_seconds)

    def row(self, index: int) -> dict[str, str]:
        """Show one clip."""
        clip, classes = self.data.clips["train"][index], self.data.classes
        names = clip.label if isinstance(clip.label, tuple) else (clip.label,)
        label = ", ".join(classes[name] if isinstance(name, int) else f"{name:g}" for name in names)
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
        drawn, player = seen_and_heard(mel[0, : self.num_frames], batch.waveform[0, : round(MAX_SECONDS * rate)], rate)
        told = [] if batches.augment is None else words_of(batches.augment, batch.keys, rate)
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
