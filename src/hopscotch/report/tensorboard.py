"""Show in TensorBoard, while it trains, what a model skips.

What is under which tag:

- `skip/...`, `jump/...`, `gate/open_rate/...`, `policy/routes`: the validation clips at the end of each epoch, decided
  deterministically. These are the figures to believe.
- `train/...`, `policy/entropy`, `gate/threshold/...`: training steps since the last entry, decisions sampled.
- pictures and text: the same validation clips all through training, so one can watch a clip's route change.
- `wrong/...`: the clips whose class stays wrong, to be seen and heard: broken labels and bad recordings show up here.

TensorBoard keeps one kind of data per tag, so a histogram stands beside its scalar or picture under a longer name.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams.api_pb2 import MetricName  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as tensorboard_hparams

from hopscotch.plain import shown
from hopscotch.report.clips import SplitClips, clip_rows, clip_table, clips_of
from hopscotch.report.collect import Evaluation, gather
from hopscotch.report.decisions import (
    LAYERS,
    attention_layers,
    evaluation_numbers,
    open_tokens,
    split_numbers,
    stride_shares,
)
from hopscotch.report.figures import (
    draw_confusion,
    draw_heard,
    draw_histories,
    draw_pattern_history,
    spread,
)
from hopscotch.report.paint import shortened
from hopscotch.report.split_logger import place_of
from hopscotch.report.statistics import confusion
from hopscotch.report.text import Table, markdown

NUM_TOKEN_CLIPS = 2  # of the fixed ones, whose open tokens are drawn: each is run once more
FINAL_NUMBERS = ("compute_fraction", "seconds")  # by which the HParams tab compares runs, beside the primary metric
MAX_SECONDS = 5.0  # of sound per clip in the event file
MAX_FRAMES = 500  # of a mel picture

# Charts by what a model skips. The tab reads tags as regular expressions, so one chart holds all layers.
CHARTS = (
    ("strides", "Skipped keys", {"mean stride by layer": [r"skip/stride/layer_\d+"]}),
    (
        "layers",
        "Skipped layers",
        {
            "jumps per decision": ["jump/rate", "(train/)?jump_rate"],
            "share of layers skipped": ["jump/skipped", "(train/)?jump_skipped"],
            "share of clips that run a layer": [r"jump/visited/layer_\d+"],
        },
    ),
    (
        "tokens",
        "Skipped tokens",
        {"open rate by layer": [r"gate/open_rate/layer_\d+"], "threshold by layer": [r"gate/threshold/layer_\d+"]},
    ),
    (
        "policy",
        "Policy",
        {
            "entropy of a decision": ["policy/entropy"],
            "different routes in use": ["policy/routes"],
            "does compute go to hard clips?": ["policy/rank_correlation"],
        },
    ),
)


class SkipDashboard(Callback):
    """Write what was skipped to all loggers as numbers, and to TensorBoard as pictures.

    Pictures come every `every_n_epochs`; numbers about training every `every_n_steps` (an entry takes 3 ms) and at the
    end of each epoch. `hparams` are the few hyper-parameters by which the HParams tab compares runs. With `pictures`
    off only numbers and histograms are written. Under several processes the first one reports, on its own clips.
    """

    def __init__(
        self,
        *,
        pictures: bool = True,
        every_n_epochs: int = 1,
        every_n_steps: int = 50,
        num_fixed_clips: int = 8,
        num_history_clips: int = 24,
        num_hardest_clips: int = 4,
        hparams: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> None:
        counts = {"num_fixed_clips": num_fixed_clips, "num_history_clips": num_history_clips}
        for key, value in {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps, **counts}.items():
            if value < 1:
                raise ValueError(f"callbacks.dashboard.{key} must be at least 1, got {value}.")
        self.pictures = pictures
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.num_fixed_clips = num_fixed_clips
        self.num_history_clips = num_history_clips
        self.hparams = dict(hparams or {})
        self.hardest = HardestClips(num_hardest_clips)
        self.patterns: dict[int, np.ndarray] = {}  # epoch -> share by depth and stride
        self.logged_step = 0
        self.num_logged = 0  # steps of this epoch that an entry has told of
        self.start = time.monotonic()

    # Training

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.start = time.monotonic()
        self.logged_step = trainer.global_step
        writer = tensorboard_writer(trainer)
        if self.pictures and writer is None and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            rank_zero_warn(
                "callbacks.dashboard.pictures=true has no effect without a TensorBoard logger: "
                "choose logger=tensorboard, or callbacks=quiet."
            )
        if writer is None:
            return
        model = pl_module.model  # a resumed run is written to a folder of its own, which has none of this yet
        writer.add_custom_scalars(chart_layout(pl_module.metric_names, model.skips, model.decides))
        if self.hparams:
            write_hparams(writer, self.hparams, [f"test/{name}" for name in (pl_module.primary.name, *FINAL_NUMBERS)])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.num_logged = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step - self.logged_step >= self.every_n_steps:
            self.log_training(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.log_training(trainer, pl_module)

    def log_training(self, trainer: Trainer, task: Any) -> None:
        """Tell of the steps since the last entry."""
        steps = task.steps["train"][self.num_logged :]
        if not steps:
            return
        self.logged_step, self.num_logged = trainer.global_step, len(task.steps["train"])
        seen = gather(steps)
        numbers = split_numbers(seen.trace, task.model.skips, "train")
        if task.model.decides:
            numbers["policy/entropy"] = seen.trace.entropy.mean().item()
        numbers |= {f"gate/threshold/layer_{layer:02d}": value for layer, value in seen.thresholds.items()}
        log_numbers(trainer, numbers, last_step(trainer))

    # Validation

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not pl_module.steps["val"]:
            return
        self.log_training(trainer, pl_module)  # its thresholds are those that the validation was decided by
        model, evaluation = pl_module.model, gather(pl_module.steps["val"])
        skips, decides = model.skips, model.decides
        if evaluation.has_classes:
            self.hardest.update(evaluation)
        if "strides" in skips:
            self.patterns[trainer.current_epoch] = stride_shares(evaluation.trace.strides.numpy())
        log_numbers(trainer, evaluation_numbers(evaluation, skips, decides), last_step(trainer))
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        write_histograms(writer, evaluation, skips, last_step(trainer))
        if self.pictures and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.write_pictures(writer, evaluation, clips_of(trainer, "val"), model, last_step(trainer))

    def write_pictures(
        self, writer: SummaryWriter, evaluation: Evaluation, clips: SplitClips, model: Any, step: int
    ) -> None:
        skips: frozenset[str] = model.skips
        if "strides" in skips:
            layers = attention_layers(evaluation.trace)
            writer.add_figure("skip/pattern", draw_pattern_history(self.patterns, layers), step)
        if skips & LAYERS:
            rows = spread(evaluation.num_clips, self.num_history_clips)
            names = [clips.name(index) for index in evaluation.indices[rows].tolist()]
            writer.add_figure("jump/history", draw_histories(evaluation.trace, rows, "validation clips", names), step)
        fixed = evaluation.select(torch.tensor(spread(evaluation.num_clips, self.num_fixed_clips)))
        if skips & {*LAYERS, "strides"}:
            tag = "jump/history" if skips & LAYERS else "skip/pattern"
            writer.add_text(tag, markdown(clip_table(clip_rows(fixed, clips), skips)), step)
        if "tokens" in skips:
            for place, index in enumerate(fixed.indices[:NUM_TOKEN_CLIPS].tolist()):
                write_mel(writer, f"gate/tokens_{place}", clips, index, model, step)
        if evaluation.has_classes:
            labels, predictions = (evaluation.rows[name].numpy() for name in ("label", "prediction"))
            counts = confusion(labels, predictions, len(clips.classes))
            ((figure, _),) = draw_confusion(counts, clips.classes)
            writer.add_figure("val/confusion", figure, step)
            self.hardest.write(writer, evaluation, clips, model, step)

    # Test

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        evaluation = gather(pl_module.steps["test"])
        numbers = split_numbers(evaluation.trace, pl_module.model.skips, "test")
        numbers["test/seconds"] = time.monotonic() - self.start
        log_numbers(trainer, numbers, trainer.global_step)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        return {
            "patterns": {epoch: torch.from_numpy(shares) for epoch, shares in self.patterns.items()},
            "hardest": self.hardest.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.patterns = {epoch: shares.numpy() for epoch, shares in state_dict["patterns"].items()}
        self.hardest.load_state_dict(state_dict["hardest"])


class HardestClips:
    """Count how often each validation clip was wrong, and show those that lead."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips
        self.times_wrong: Counter[int] = Counter()
        self.num_evaluations = 0
        self.shown: set[int] = set()  # clips: each is written once and not every epoch

    def update(self, evaluation: Evaluation) -> None:
        self.num_evaluations += 1
        self.times_wrong.update(evaluation.indices[evaluation.is_wrong].tolist())

    def leaders(self, evaluation: Evaluation) -> list[int]:
        """Rows of the clips most often wrong, worst first; of two wrong equally often the larger loss now."""
        clips, losses = evaluation.indices.tolist(), evaluation.losses.tolist()
        rows = [row for row, clip in enumerate(clips) if self.times_wrong[clip]]  # a resumed run may validate on fewer
        return sorted(rows, key=lambda row: (-self.times_wrong[clips[row]], -losses[row]))[: self.num_clips]

    def write(self, writer: SummaryWriter, evaluation: Evaluation, clips: SplitClips, model: Any, step: int) -> None:
        """Write a table of the leaders, and picture and sound of each that was wrong twice: once is no habit."""
        worst = evaluation.select(torch.tensor(self.leaders(evaluation), dtype=torch.long))
        lines = []
        for clip, row in zip(worst.indices.tolist(), clip_rows(worst, clips), strict=True):
            wrong = f"{self.times_wrong[clip]} of {self.num_evaluations}"
            lines.append([row.path, wrong, row.label, row.prediction, f"{row.loss:.2f}"])
            if self.times_wrong[clip] > 1 and clip not in self.shown:
                self.shown.add(clip)
                tag = f"wrong/{shown(row.path)} is {shown(row.label)}"
                write_sound(writer, f"{tag}: sound", clips, clip, step)
                write_mel(writer, f"{tag}: mel", clips, clip, model, step)
        if lines:
            table = Table(["clip", "wrong", "is", "taken for", "loss"], lines)
            writer.add_text("wrong/clips", markdown(table), step)

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
    """Draw the clip as the model hears it, and under it, layer by layer, the tokens that its gates open."""
    waveform = clips.waveform(clip)
    frontend: nn.Module = model.frontend
    device = next(iter([*frontend.parameters(), *frontend.buffers()]), waveform).device
    with torch.no_grad():
        mel, _ = frontend(waveform[None].to(device), torch.tensor([len(waveform)], device=device))
    hop_seconds = model.frontend.hop / clips.sample_rate
    is_open = open_tokens(model, waveform)
    figure = draw_heard(
        mel[0, :MAX_FRAMES].float().cpu().numpy().astype(np.float64),
        hop_seconds,
        model.frontend.hertz.numpy(),
        f"{shortened(clips.name(clip), 48)}, {len(waveform) / clips.sample_rate:.2f} s",
        is_open,
        0.0 if is_open is None else hop_seconds * model.token_frames,
    )
    writer.add_figure(tag, figure, step)


def chart_layout(
    metrics: Sequence[str], skips: frozenset[str], decides: bool
) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Lay out the "Custom Scalars" tab, the first page a newcomer should open: charts by category."""
    named = {"compute fraction": "compute[/_]fraction", "loss": "loss", "multiply-accumulates per clip": "macs"}
    splits = {words: [f"(.*/)?{tag}"] for words, tag in ({name: name for name in metrics} | named).items()}
    kinds = {"strides": "strides" in skips, "layers": skips & LAYERS, "tokens": "tokens" in skips, "policy": decides}
    layout = {"Metrics and compute": splits} | {title: charts for kind, title, charts in CHARTS if kinds[kind]}
    return {
        title: {words: ("Multiline", [f"{tag}$" for tag in tags]) for words, tags in charts.items()}
        for title, charts in layout.items()
    }


def log_numbers(trainer: Trainer, numbers: dict[str, float], step: int) -> None:
    """Hand numbers to all loggers, past `LightningModule.log`: its bookkeeping costs more than these are worth."""
    for logger in trainer.loggers:
        logger.log_metrics({**numbers, "epoch": trainer.current_epoch}, step=step)


def last_step(trainer: Trainer) -> int:
    """Return the step just done, counted from 0 as in Lightning's own lines; `global_step` is how many were done."""
    return max(trainer.global_step - 1, 0)


def tensorboard_writer(trainer: Trainer) -> SummaryWriter | None:
    """Where pictures go: the first TensorBoard logger, on the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def write_hparams(writer: SummaryWriter, hparams: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Start a session of the HParams tab: names now, the metrics' values when they are known.

    `add_hparams` and Lightning's `log_hyperparams` want values at once: every curve would start with an invented one.
    """
    values = {name: value for name, value in hparams.items() if value is not None}
    experiment, session_start, _ = tensorboard_hparams(values, {})
    content = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    for split, tag in map(place_of, metrics):
        content.experiment.metric_infos.add(name=MetricName(group=split, tag=tag))
    experiment.value[0].metadata.plugin_data.content = content.SerializeToString()
    file_writer = writer._get_file_writer()
    file_writer.add_summary(experiment)
    file_writer.add_summary(session_start)


def write_histograms(writer: SummaryWriter, evaluation: Evaluation, skips: frozenset[str], step: int) -> None:
    """Whole numbers as histograms: a bin around each, its borders half-way to the next."""
    trace = evaluation.trace
    if "strides" in skips:
        largest = int(trace.strides.max())
        for layer in attention_layers(trace):
            strides = trace.strides[:, layer].numpy()
            write_counts(writer, f"skip/stride/layer_{layer:02d}/histogram", strides, largest, step)
    if skips & LAYERS:
        layers = trace.visited.nonzero()[:, 1].numpy()
        write_counts(writer, "jump/visited/histogram", layers, trace.visited.shape[1] - 1, step)
        actions = trace.jumps[trace.jumps >= 0].numpy()
        if len(actions):
            write_counts(writer, "jump/history/histogram", actions, int(actions.max()), step)


def write_counts(writer: SummaryWriter, tag: str, values: Int[np.ndarray, " value"], largest: int, step: int) -> None:
    """One histogram of whole numbers from 0 to `largest`, empty bins and all: `add_histogram` would cut them off."""
    counts = np.bincount(values, minlength=largest + 1)
    writer.add_histogram_raw(
        tag,
        min=-0.5,
        max=largest + 0.5,
        num=len(values),
        sum=int(values.sum()),
        sum_squares=int((values.astype(np.int64) ** 2).sum()),
        bucket_limits=(np.arange(largest + 1) + 0.5).tolist(),
        bucket_counts=counts.tolist(),
        global_step=step,
    )
