"""Small traces written out by hand, and a module that returns them: what the reports' tests read back."""

from types import SimpleNamespace

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor, nn

from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.report.collect import Evaluation
from hopscotch.training.task import StepOutput
from hopscotch.types import AudioBatch, ModelOutput, Primary, SkipTrace, Step

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
    places = torch.arange(len(trace.strides))
    rows = {
        "label": places % 2 if labels is None else labels,
        "prediction": 0 * places if predictions is None else predictions,
        "confidence": torch.tensor(confidences or torch.linspace(0.6, 1.0, len(places)).tolist()),
    }
    losses = losses or tuple((places / 10).tolist())
    return Evaluation(trace, places, torch.tensor(losses), rows, thresholds or {})


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

    hop = 10  # samples
    hertz = torch.arange(50.0, 450.0, 50.0)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waveform.unflatten(1, (-1, 10))[..., :8], lengths // 10


class Model(nn.Module):
    """What the reports ask a model for."""

    def __init__(self, decides: bool, skips: frozenset[str]) -> None:
        super().__init__()
        self.decides = decides
        self.skips, self.in_pieces = skips, False
        self.encoder = SimpleNamespace(gates=())
        self.frontend = FrontEnd()
        self.weight = nn.Parameter(torch.zeros(()))


def skips_of(trace: SkipTrace) -> frozenset[str]:
    """What a model with such a trace declares."""
    may_skip = (~trace.visited | (trace.jumps >= 0)).any()
    found = {"strides": (trace.strides > 1).any(), "layers": may_skip, "tokens": not trace.open_rate.isnan().all()}
    return frozenset(name for name, is_found in found.items() if is_found)


class Replay(LightningModule):
    """Returns a hand-made trace at every step. Says "no" to every clip: clips 1 and 3 are wrong, 3 more surely."""

    primary = Primary("acc", larger_is_better=True)
    metric_names = ("acc",)

    def __init__(
        self, trace: SkipTrace, thresholds: dict[int, float] | None = None, skips: frozenset[str] | None = None
    ) -> None:
        super().__init__()
        self.model = Model(bool((trace.entropy > 0).any()), skips_of(trace) if skips is None else skips)
        self.steps: dict[str, list[Step]] = {"train": [], "val": [], "test": []}
        self.classes = CLASSES
        self.trace = trace
        self.thresholds = {layer: torch.tensor(value) for layer, value in (thresholds or {}).items()}

    def step_output(self, stage: str, batch: AudioBatch) -> StepOutput:
        logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])[batch.indices]
        losses = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        loss = losses.mean() + 0.0 * self.model.weight
        macs = torch.zeros(4, dtype=torch.long)
        output = ModelOutput(logits, self.trace, self.thresholds, frontend_macs=macs, positions=macs + 10)
        confidence, prediction = logits.softmax(dim=-1).max(dim=-1)
        rows = {"label": batch.labels, "prediction": prediction, "confidence": confidence}
        step = Step(losses, output, batch, (logits, batch.labels), rows)
        self.steps[stage].append(step)
        return {"loss": loss, "step": step}

    def on_train_epoch_start(self) -> None:
        self.steps["train"] = []

    def on_validation_start(self) -> None:
        self.steps["val"] = []

    def on_test_start(self) -> None:
        self.steps["test"] = []

    def training_step(self, batch: AudioBatch) -> StepOutput:
        outputs = self.step_output("train", batch)
        self.log("train/loss", outputs["step"].task_loss, batch_size=4)
        return outputs

    def validation_step(self, batch: AudioBatch) -> StepOutput:
        self.log("val/acc", 0.5, batch_size=4)
        return self.step_output("val", batch)

    def test_step(self, batch: AudioBatch) -> StepOutput:
        self.log("test/acc", 0.5, batch_size=4)
        return self.step_output("test", batch)

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
