"""Show training clips as they come out of augmentation: one page, to see and hear before anything is trained."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
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
from hopscotch.report.run_page import MAX_SECONDS, played, seen
from hopscotch.report.text import Table
from hopscotch.types import AudioBatch, key_bits

NUM_CLIPS = 24
VERSIONS = {"first epoch": 0, "second epoch": 1}  # column -> epoch that is shown
WORDS = ("label", "clip", "as it is", *VERSIONS)  # columns that are no numbers


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
    found, picture = data.clips["train"], drawer(cfg)
    drawn = torch.randperm(len(found), generator=torch.Generator().manual_seed(key_bits(cfg.seed)))[:num_clips]
    rows = [row_of(data, index, picture) for index in sorted(drawn.tolist())]
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


def drawer(cfg: DictConfig) -> Callable[..., Float[Tensor, "time mel"]]:
    """Return what makes the mel frames of a batch of one clip, plain or masked and tilted by its key."""
    frontend = make(cfg.frontend)
    spectrogram = None if cfg.augment.spectrogram is None else make(cfg.augment.spectrogram)

    def picture(batch: AudioBatch, is_plain: bool) -> Float[Tensor, "time mel"]:
        mel, lengths = frontend(batch.waveform, batch.lengths)
        if not is_plain and spectrogram is not None:
            mean = mel.mean(dim=1, keepdim=True)  # training masks with the mean of a bin over the training set
            mel = mean + spectrogram(mel - mean, lengths, batch.keys)
        return mel[0, : round(MAX_SECONDS / cfg.frontend.hop_seconds)]

    return picture


def row_of(data: AudioDataModule, index: int, picture: Callable[..., Tensor]) -> dict[str, str]:
    """Show one clip, as it is and in each epoch."""
    clip = data.clips["train"][index]
    names = clip.label if isinstance(clip.label, tuple) else (clip.label,)
    label = ", ".join(data.classes[name] if isinstance(name, int) else f"{name:g}" for name in names)
    row = {"label": label, "clip": clip.name, "seconds": f"{clip.num_samples / data.sample_rate:.2f}"}
    version = partial(_version, data, index, picture)
    return row | {"as it is": version(None, 0)} | {name: version(data.augment, i) for name, i in VERSIONS.items()}


def _version(
    data: AudioDataModule, index: int, picture: Callable[..., Tensor], augment: WaveformAugment | None, epoch: int
) -> Markup:
    """Draw one version of a clip over its player, and say what was drawn for it."""
    store = ClipStore(data.clips["train"], data.load)
    try:
        batch = Batches(store, data.seed, augment, data.num_classes, longest=data.longest).__getitems__(
            [(epoch, index)]
        )
    except AudioFileError as error:
        return Markup("<div>{}</div>").format(shown(error))
    player = played(batch.waveform[0, : round(MAX_SECONDS * data.sample_rate)], data.sample_rate)
    told = [] if augment is None else words_of(augment, batch.keys, data.sample_rate)
    lines = Markup("").join(Markup("<div>{}</div>").format(line) for line in told)
    return seen(picture(batch, augment is None)) + player + lines


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
