"""Small traces written out by hand, and a module that returns them: what the reports' tests read back."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor, nn

from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.report.collect import Evaluation
from hopscotch.training.task import Step, StepOutput
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace

CLASSES = ["no", "yes"]
SAMPLE_RATE = 800
NAN = float("nan")

# Three layers, four clips. 0 where a layer does not attend.
STRIDES = torch.tensor([[1, 2, 4], [1, 2, 2], [1, 1, 4], [2, 2, 4]])
NONE = torch.zeros(4, 3, dtype=torch.long)

# Jumps by the rule `skip`: clip 0 goes on twice, 1 jumps from 0 over 1 to 2, 2 jumps as far, 3 goes on.
VISITED = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
LANDINGS = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
JUMPS = torch.tensor([[0, 0, 0], [1, -1, 0], [2, -1, 0], [0, 0, 0]], dtype=torch.int8)
OPEN_RATE = torch.tensor([[1.0, 0.5, NAN], [0.5, NAN, NAN], [0.5, NAN, NAN], [1.0, 1.0, NAN]])


def make_trace(
    *,
    strides: Tensor = NONE,
    visited: Tensor | None = None,
    jumps: Tensor | None = None,
    landings: Tensor | None = None,
    open_rate: Tensor | None = None,
    macs: Tensor | None = None,
    entropy: float = 0.0,
) -> SkipTrace:
    """A trace of `strides.shape` with nothing skipped, but for what is given."""
    clips, depth = strides.shape
    dense = torch.full((clips,), 100)
    return SkipTrace.of(
        torch.ones(clips, depth, dtype=torch.bool) if visited is None else visited,
        dense if macs is None else macs,
        dense,
        strides=strides,
        jumps=jumps,
        landings=torch.zeros(clips, depth, dtype=torch.bool) if landings is None else landings,
        open_rate=torch.full((clips, depth), NAN) if open_rate is None else open_rate,
        expected_compute=torch.ones(clips),
        entropy=torch.full((clips,), entropy),
    )


def dense_trace() -> SkipTrace:
    return make_trace(strides=torch.ones(4, 3, dtype=torch.long))


def stride_trace() -> SkipTrace:
    return make_trace(strides=STRIDES, macs=torch.tensor([60, 70, 80, 50]), entropy=0.5)


def jump_trace() -> SkipTrace:
    return make_trace(
        visited=VISITED,
        jumps=JUMPS,
        landings=LANDINGS,
        open_rate=OPEN_RATE,
        macs=torch.tensor([100, 60, 60, 100]),
        entropy=0.25,
    )


def both_trace() -> SkipTrace:
    return make_trace(
        strides=torch.where(VISITED, STRIDES, 0),
        visited=VISITED,
        jumps=JUMPS,
        landings=LANDINGS,
        macs=torch.tensor([90, 50, 60, 80]),
        entropy=0.25,
    )


def make_evaluation(
    trace: SkipTrace,
    *,
    predictions: Tensor | None = None,
    confidences: tuple[float, ...] = (),
    losses: tuple[float, ...] = (),
    labels: Tensor | None = None,
    thresholds: dict[int, float] | None = None,
) -> Evaluation:
    """Clips are `no` and `yes` in turn, all taken for `no` with rising confidence, unless told otherwise."""
    rows = torch.arange(len(trace.strides))
    predictions = 0 * rows if predictions is None else predictions
    sure = torch.tensor(confidences or torch.linspace(0.6, 1.0, len(rows)).tolist())
    logits = torch.stack([torch.where(predictions == label, sure, 1 - sure) for label in (0, 1)], dim=1).log()
    losses = losses or tuple((rows / 10).tolist())
    labels = rows % 2 if labels is None else labels
    return Evaluation(trace, rows, labels, logits, torch.tensor(losses), thresholds or {})


class FourClips(AudioDataModule):
    """Four tones of 0.1 s for every split, in one batch."""

    def __init__(self) -> None:
        super().__init__(sample_rate=SAMPLE_RATE, batch_size=4, num_workers=0, cache_gib=1.0, seed=0, augment=None)

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        clips = [Clip(f"{CLASSES[index % 2]}/{index}.wav", index % 2, SAMPLE_RATE // 10) for index in range(4)]
        return CLASSES, {"train": clips, "val": clips, "test": clips}

    def load(self, clip: Clip) -> Tensor:
        pitch = 50.0 * (1 + int(clip.name[-5]))
        return torch.sin(torch.arange(clip.num_samples) / SAMPLE_RATE * pitch * 2 * torch.pi) * 1.5


class FrontEnd(nn.Module):
    """Eight numbers per frame of ten samples, in the place of a mel picture."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waveform.unflatten(1, (-1, 10))[..., :8], lengths // 10


class Model(nn.Module):
    def __init__(self, decides: bool) -> None:
        super().__init__()
        self.decides = decides
        self.frontend = FrontEnd()
        self.weight = nn.Parameter(torch.zeros(()))


class Replay(LightningModule):
    """Returns a hand-made trace at every step. Says "no" to every clip: clips 1 and 3 are wrong, 3 more surely."""

    def __init__(self, trace: SkipTrace, thresholds: dict[int, float] | None = None) -> None:
        super().__init__()
        self.model = Model(decides=bool((trace.entropy > 0).any()))
        self.classes = CLASSES
        self.trace = trace
        self.thresholds = {layer: torch.tensor(value) for layer, value in (thresholds or {}).items()}

    def step_output(self, batch: AudioBatch) -> StepOutput:
        logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])[batch.indices]
        losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        loss = losses.mean() + 0.0 * self.model.weight
        macs = torch.zeros(4, dtype=torch.long)
        output = ModelOutput(logits, self.trace, self.thresholds, frontend_macs=macs, positions=macs + 10)
        return {"loss": loss, "step": Step(losses, output, batch, (logits, batch.labels), {})}

    def training_step(self, batch: AudioBatch) -> StepOutput:
        outputs = self.step_output(batch)
        self.log("train/loss", outputs["step"].task_loss, batch_size=4)
        return outputs

    def validation_step(self, batch: AudioBatch) -> StepOutput:
        self.log("val/acc", 0.5, batch_size=4)
        return self.step_output(batch)

    def test_step(self, batch: AudioBatch) -> StepOutput:
        self.log("test/acc", 0.5, batch_size=4)
        return self.step_output(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder, *, callbacks=(), loggers=(), max_epochs: int = 1) -> Trainer:
    """A trainer that says nothing and writes only where the given callbacks and loggers do."""
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        callbacks=list(callbacks),
        logger=list(loggers),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
