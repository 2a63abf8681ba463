"""Let one see and hear the clips that stay wrong: broken labels and bad recordings show up here first."""

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from hopscotch.report.clips import SplitClips
from hopscotch.report.open_tokens import open_tokens
from hopscotch.report.pictures import captioned, paint_mel, paint_tokens, stacked
from hopscotch.report.traces import Evaluation

MAX_SECONDS = 5.0  # of sound per clip in the event file
MAX_FRAMES = 500  # of a mel picture


class HardestClips:
    """Count how often each validation clip was wrong, and show those that lead."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips
        self.times_wrong: Counter[int] = Counter()
        self.num_evaluations = 0
        self.shown: dict[int, int] = {}  # place -> clip, to write a clip once and not every epoch

    def update(self, evaluation: Evaluation) -> None:
        self.num_evaluations += 1
        self.times_wrong.update(evaluation.indices[evaluation.is_wrong].tolist())

    def leaders(self, evaluation: Evaluation) -> list[int]:
        """Clips most often wrong, worst first; of two wrong equally often the one with the larger loss now."""
        losses = dict(zip(evaluation.indices.tolist(), evaluation.losses.tolist(), strict=True))
        here = self.times_wrong.keys() & losses.keys()  # a resumed run may validate on fewer
        ranked = sorted(here, key=lambda clip: (-self.times_wrong[clip], -losses[clip], clip))
        return ranked[: self.num_clips]

    def write(self, writer: SummaryWriter, evaluation: Evaluation, clips: SplitClips, model: Any, step: int) -> None:
        """A table of the leaders, and picture and sound of those that were not shown in their place before."""
        leaders = self.leaders(evaluation)
        if not leaders:
            return
        rows = {clip: row for row, clip in enumerate(evaluation.indices.tolist())}
        lines = ["| place | clip | wrong | is | taken for | loss |", "|---|---|---|---|---|---|"]
        for place, clip in enumerate(leaders):
            row = rows[clip]
            label, prediction = int(evaluation.labels[row]), int(evaluation.predictions[row])
            wrong = f"{self.times_wrong[clip]} of {self.num_evaluations}"
            lines.append(
                f"| {place} | {clips.name(clip)} | {wrong} | {clips.word(label)} | {clips.word(prediction)} "
                f"| {evaluation.losses[row]:.2f} |"
            )
            if self.shown.get(place) != clip:
                self.shown[place] = clip
                write_sound(writer, f"wrong/sound_{place}", clips, clip, step)
                write_mel(writer, f"wrong/mel_{place}", clips, clip, model, step)
        writer.add_text("wrong/clips", "\n".join(lines), step)

    def state_dict(self) -> dict[str, object]:
        return {"times_wrong": dict(self.times_wrong), "num_evaluations": self.num_evaluations}

    def load_state_dict(self, state: dict) -> None:
        self.times_wrong = Counter(state["times_wrong"])
        self.num_evaluations = state["num_evaluations"]


def write_sound(writer: SummaryWriter, tag: str, clips: SplitClips, clip: int, step: int) -> None:
    waveform = clips.waveform(clip)[: int(MAX_SECONDS * clips.sample_rate)]
    # A file may exceed 1 (Opus does): turning it down beats clipping it.
    level = waveform.abs().max().clamp(min=1.0)
    writer.add_audio(tag, waveform / level, step, clips.sample_rate)


def write_mel(writer: SummaryWriter, tag: str, clips: SplitClips, clip: int, model: Any, step: int) -> None:
    """The clip as the model hears it, and under it, layer by layer, the tokens that its gates open."""
    waveform = clips.waveform(clip)
    frontend: nn.Module = model.frontend
    device = next(iter([*frontend.parameters(), *frontend.buffers()]), waveform).device
    with torch.no_grad():
        mel, _ = frontend(waveform[None].to(device), torch.tensor([len(waveform)], device=device))
    picture = paint_mel(mel[0, :MAX_FRAMES].float().cpu().numpy().astype(np.float64))
    title = f"{clips.name(clip)}, {len(waveform) / clips.sample_rate:.2f} s"
    is_open = open_tokens(model, waveform)
    if is_open is None:
        words = captioned(picture, title=title, rows=["high", "low"])
    else:
        tokens = paint_tokens(is_open, math.prod(model.stem.strides))
        below = "a row per gated layer, open in blue"
        words = captioned(stacked(picture, tokens), title=title, below=below)
    writer.add_image(tag, words, step, dataformats="HWC")
