"""Train an audio model: task loss, budget, policy, and `update_threshold` after every optimizer step.

    loss = task + w_b (mean expected compute - target)^2 + policy terms        (w_b warms up)
         + what stage 0 missed or opened in vain, where there is one and labels say when (training/waking.py)
         + what early exits say, where there are some (training/exits.py)
         + w_d (task of the same clips, nothing skipped + KL(dense output || output))

         + w_t KL(another trained model || output), where one teaches (training/teacher.py)

The last but one is the sandwich rule with in-place distillation (Yu and Huang 2019): one set of weights learns to work
with full and with partial compute, and the full run teaches the partial one. In the first `dense_share` of the steps
nothing is skipped, and the loss is that of the task and of the teacher alone.

Decisions of a step draw by (seed, step, clip), whichever process computes the clip (layers/noise.py). Other random
numbers (dropout, mixup) are seeded by (seed, epoch, batch, rank). So a run can be repeated and resumed bit by bit.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar, TypedDict

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from hopscotch.config.monitors import tags
from hopscotch.data.datamodule import AudioDataModule, Labels
from hopscotch.data.mixup import Mixed, mix
from hopscotch.data.windows import evaluated
from hopscotch.layers.together import Together
from hopscotch.models.audio_model import AudioModel, Head, OutputHead, Pooling
from hopscotch.models.exits import Ladder
from hopscotch.models.stage0 import STEP
from hopscotch.training.calibration import Budget, Calibration, budget_table, calibrate
from hopscotch.training.exits import exit_losses, fit_exits
from hopscotch.training.gains import fit_gains
from hopscotch.training.guard import Guard, refuse_not_finite
from hopscotch.training.losses import PolicyLoss
from hopscotch.training.rates import parameter_groups, refuse_one_rate, take_shares
from hopscotch.training.schedules import Warmed
from hopscotch.training.teacher import Teacher
from hopscotch.training.waking import waking_losses
from hopscotch.types import AudioBatch, Decisions, ModelOutput, Primary, Step, key_bits

STAGES = ("train", "val", "test")
MEANS = ("compute_fraction", "macs", "loss")  # over the clips of an epoch, of all processes
Judge = Callable[[ModelOutput], Tensor]  # gives the loss of each clip
OF_AN_EPOCH: dict[str, Any] = {"on_step": False, "on_epoch": True}  # what is logged: Lightning guesses by the hook


def clip_mean() -> MeanMetric:
    """Make a mean that counts every clip once, whichever process has it: Lightning's is a mean of processes."""
    mean = MeanMetric()
    mean.set_dtype(torch.float64)
    return mean


class StepOutput(TypedDict):
    """Hold what a step returns to Lightning."""

    loss: Tensor  # with gradient in training
    step: Step


class AudioTask(LightningModule):
    """Serve as base of the tasks: it has the loop, and a task adds what it owns.

    A task has a `primary` metric, `losses`, `metrics` and, for reports, `rows`; it may have a head of its own
    (`make_head`), another way to judge outputs (`judged`) and to compare them (`distance`).

    `optimizer` makes an optimizer from parameter groups; `scheduler` makes, from that and the number of training steps,
    what Lightning takes for a schedule. `target` is the compute fraction to train for, None for a model that decides
    nothing. `dense_share` is the share of the training steps, from the first one on, in which nothing is skipped;
    `budget_warmup` is one of those that follow. `teacher` is a trained model that teaches, if any. `layer_decay` is the
    ratio of the learning rates of neighbouring layers, `head_rate` that of head and last layer (training/rates.py).
    `mixup` is the parameter of the Beta distribution by which pairs of training clips are mixed, 0 for none
    (data/mixup.py). `nonfinite_patience` is the number of steps in a row with a loss or gradient that is not finite at
    which the training fails (training/guard.py). `classes` are the names of the labels, in order. `steps` holds, for
    each stage, the steps of its latest epoch: validation falls into a training epoch.
    """

    primary: Primary
    labels: ClassVar[Labels] = "one"  # what the label of a clip is, so that a data source can make it
    trainer: Any  # Lightning's property raises outside of a run; its type says no more

    def __init__(
        self,
        *,
        model: AudioModel,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, float], dict[str, Any]],
        classes: Sequence[str],
        seed: int,
        threshold_lr: float,
        target: float | None,
        budget_weight: float,
        budget_warmup: float,
        entropy_weight: float,
        dense_weight: float,
        dense_share: float = 0.0,
        layer_decay: float = 1.0,
        head_rate: float = 1.0,
        mixup: float = 0.0,
        nonfinite_patience: int = 5,
    ) -> None:
        super().__init__()
        if mixup < 0:
            raise ValueError(f"augment.mixup must be at least 0, got {mixup}.")
        self.model = model
        self.classes = list(classes)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.seed, self.threshold_lr = seed, threshold_lr
        self.target, self.budget_weight, self.budget_warmup = target, budget_weight, budget_warmup
        self.policy_loss, self.dense_weight, self.dense_share = PolicyLoss(entropy_weight), dense_weight, dense_share
        self.teacher: Teacher | None = None
        self.layer_decay, self.head_rate, self.mixup = layer_decay, head_rate, mixup
        self.guard = Guard(nonfinite_patience)
        self.means = nn.ModuleDict({f"{stage}_{name}": clip_mean() for stage in STAGES for name in MEANS})
        self.stage_metrics = nn.ModuleDict({f"{stage}_metrics": self.metrics() for stage in STAGES})
        self.calibration: Calibration | None = None
        self.first_step_at: float | None = None  # time.time() of the end of the first optimizer step
        self._calibration_batches: list[AudioBatch] = []
        self._step_loss: list[tuple[Tensor, int]] = []  # (mean loss, clips) of the batches of an optimizer step
        self.steps: dict[str, list[Step]] = {stage: [] for stage in STAGES}
        self._gradient_norm: Tensor | None = None  # of the step under way, where it is not scaled
        self._is_judged = False  # whether the training epoch was

    # What a task owns.

    @classmethod
    def make_head(cls, dim: int, num_outputs: int, *, pooling: Pooling, dropout: float) -> OutputHead:
        """Make the head, which reads the hidden states of the encoder."""
        return Head(dim, num_outputs, pooling=pooling, dropout=dropout)

    def look_at(self, data: AudioDataModule) -> None:
        """Learn from the labels of the training clips what the loss needs, before training; a checkpoint overrides."""

    def losses(self, output: ModelOutput, batch: AudioBatch) -> Float[Tensor, " batch"]:
        """Compute the loss of each clip."""
        raise NotImplementedError

    def metrics(self) -> MetricCollection:
        """Make the metrics, by the names that they are logged under (`acc` becomes `val/acc`); `primary` is one."""
        raise NotImplementedError

    def judged(self, output: ModelOutput, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        """Give predictions and targets as `metrics` take them, in rows that batches can be joined by."""
        return output.logits, batch.labels

    def rows(self, output: ModelOutput, batch: AudioBatch) -> dict[str, Tensor]:
        """Return the columns of clips.csv by name, one value per clip.

        Where there is one label per clip, `label` and `prediction` are whole numbers, places among the classes, and
        `confidence` is the probability of the prediction: reports then tell of classes.
        """
        return {}

    def distance(self, output: ModelOutput, teacher: ModelOutput) -> Tensor:
        """Measure how far an output is from its teacher, the output for the same clips with nothing skipped."""
        return nn.functional.mse_loss(output.logits, teacher.logits.detach())

    # The loop.

    @property
    def metric_names(self) -> list[str]:
        """List the names of the metrics, the primary one first."""
        metrics = self.stage_metrics["val_metrics"]
        assert isinstance(metrics, MetricCollection)
        return sorted(map(str, metrics.keys()), key=lambda name: name != self.primary.name)

    @property
    def tags(self) -> list[str]:
        """List what a checkpoint, early stopping or a schedule can monitor."""
        return tags(self.metric_names)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def progress(self) -> float:
        """Return the share of the training steps done, 0 to 1; of its time, where that alone ends it."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            (timer,) = (callback for callback in self.trainer.callbacks if isinstance(callback, Timer))
            passed, left = timer.time_elapsed(), timer.time_remaining()
            share = passed / (passed + (left or 0.0))  # of its duration, which it has
            return min(1.0, self.trainer.strategy.broadcast(share))  # the same rate in all processes
        return min(1.0, self.global_step / max(1, steps))

    @property
    def is_dense(self) -> bool:
        """Tell whether the training is where nothing is skipped yet."""
        return self.progress < self.dense_share

    @property
    def deciding(self) -> float:
        """Return the share done, 0 to 1, of the steps in which something may be skipped."""
        rest = 1 - self.dense_share
        return max(0.0, self.progress - self.dense_share) / rest if rest else 0.0

    def training_step(self, batch: AudioBatch, batch_idx: int) -> StepOutput:
        self._seed(key_bits(self.seed, self.current_epoch, batch_idx, self.global_rank))
        self.model.begin_step(key_bits(self.seed, self.global_step))
        self.model.set_progress(self.deciding)
        self.model.hold(self.is_dense)
        mixed = mix(batch, self.mixup) if self.mixup > 0 else Mixed(batch)
        batch, judge = mixed.batch, partial(self._mixed_losses, mixed)
        output = self._run(batch)
        losses = judge(output)
        task_loss = losses.mean()
        loss = task_loss + self._waking_loss(output, batch)
        if not self.is_dense:
            loss = loss + self._budget_loss(output) + self._policy_loss(output, losses, batch, judge)
            loss = loss + self._dense_loss(output, batch, judge)
        if self.teacher is not None:
            loss = loss + self.teacher.weight * self.distance(output, self.teacher(batch))
        if isinstance(self.model, Ladder):
            loss = loss + exit_losses(output, self.model.loss_weight, judge, self.distance)
        loss = loss * self._share(len(losses))
        self.guard.note(loss, losses, batch.indices)
        self._step_loss.append((task_loss.detach(), len(losses)))
        step = Step(losses, output, batch, self.judged(output, batch), {})
        self.steps["train"].append(step)
        if batch_idx % self.trainer.log_every_n_steps == 0:  # a call of Lightning's log costs half a millisecond
            self.log("train/loss", step.task_loss, prog_bar=True, batch_size=len(losses))
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return {"loss": loss, "step": step}

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> StepOutput:
        return self._evaluation_step("val", batch)

    def test_step(self, batch: AudioBatch, batch_idx: int) -> StepOutput:
        return self._evaluation_step("test", batch)

    def _evaluation_step(self, stage: str, batch: AudioBatch) -> StepOutput:
        output, batch = evaluated(self.model, batch)
        losses = self.losses(output, batch)
        rows = self.rows(output, batch)
        if {"label", "prediction"} <= rows.keys() and rows["prediction"].is_floating_point():
            raise ValueError("rows() must give prediction as places among the classes, as label is, got floats.")
        step = Step(losses, output, batch, self.judged(output, batch), rows)
        self.steps[stage].append(step)
        return {"loss": step.task_loss, "step": step}

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            self.model.train_together(Together(torch.distributed.new_group()))

    def on_fit_end(self) -> None:
        self.model.train_together(None)

    def on_train_epoch_start(self) -> None:
        self.steps["train"], self._is_judged = [], False

    def on_validation_start(self) -> None:
        self.steps["val"] = []

    def on_test_start(self) -> None:
        self.steps["test"] = []

    def on_train_batch_end(self, outputs: Any, batch: AudioBatch, batch_idx: int) -> None:
        # Not at the epoch's end, where callbacks are told before the task. All steps may have been left out.
        if self.trainer.is_last_batch and self.steps["train"]:
            self._measure_epoch("train")

    def on_train_epoch_end(self) -> None:
        if self.steps["train"] and not self._is_judged:  # the epoch was cut short
            self._measure_epoch("train")

    def on_validation_epoch_end(self) -> None:
        self._measure_epoch("val")

    def on_test_epoch_end(self) -> None:
        self._measure_epoch("test")

    def _measure_epoch(self, stage: str) -> None:
        """Compute and log epoch metrics once; per-batch updates are slower."""
        steps = self.steps[stage]
        self._is_judged = True
        if stage != "train":
            data = self.trainer.datamodule  # None where evaluations give batches
            refuse_not_finite(stage, steps, None if data is None else data.clips[stage])
        macs = torch.cat([step.output.trace.macs for step in steps]).double()
        dense_macs = torch.cat([step.output.trace.dense_macs for step in steps]).double()
        of_clips = {"compute_fraction": (macs / dense_macs, dense_macs), "macs": (macs, 1.0)}
        if stage != "train":  # whose loss is that of single steps
            of_clips["loss"] = torch.cat([step.losses for step in steps]).double(), 1.0
        for name, (values, weights) in of_clips.items():
            mean = self.means[f"{stage}_{name}"]
            assert isinstance(mean, MeanMetric)
            mean.update(values, weight=weights)
            self.log(f"{stage}/{name}", mean, prog_bar=name == "compute_fraction", **OF_AN_EPOCH)
        metrics = self.stage_metrics[f"{stage}_metrics"]
        assert isinstance(metrics, MetricCollection)
        metrics.update(torch.cat([step.judged[0] for step in steps]), torch.cat([step.judged[1] for step in steps]))
        for name, metric in metrics.items(copy_state=False):
            self.log(f"{stage}/{name}", metric, prog_bar=name == self.primary.name, **OF_AN_EPOCH)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the thresholds by the mean task loss of the step's batches, weighted by clips."""
        super().optimizer_step(*args, **kwargs)
        clips = sum(size for _, size in self._step_loss)
        total = torch.stack([loss * size for loss, size in self._step_loss]).sum()
        self._step_loss.clear()
        loss = self._everywhere(total / clips, clips)
        if self.guard.is_taken:
            self.model.update_threshold(loss, self.threshold_lr)
        if self.first_step_at is None:
            self.first_step_at = time.time()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient, before it is clipped, and leave out a step that is not finite.

        A scaler of gradients leaves out steps itself: they are too large for 16 bits at first, and now and then.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        is_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)  # until it steps
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if not (is_scaled or self.global_step % self.trainer.log_every_n_steps):
            self.log("gradient_norm", norm)
        self._gradient_norm = norm if scaler is None else None
        clips, is_alone = self.trainer.datamodule.clips["train"], self.trainer.world_size == 1
        num_batches = self.guard.judge(self._gradient_norm, self.global_step, clips, by_loss=is_alone)
        if not self.guard.is_taken:
            del self.steps["train"][-num_batches:]  # which is judged with the epoch
            if scaler is None:
                optimizer.zero_grad(set_to_none=True)  # an optimizer leaves alone what has no gradient

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Clip gradients by the norm that is known; Lightning would take it again, and refuses to for bfloat16."""
        trainer, norm = self.trainer, self._gradient_norm
        by_norm = trainer.gradient_clip_algorithm in (None, "norm")
        if not trainer.gradient_clip_val:
            return
        if norm is not None and by_norm and isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            nn.utils.clip_grads_with_norm_(self.parameters(), trainer.gradient_clip_val, norm)
            return
        plugin = trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:  # bfloat16 needs no scaling
            algorithm = GradClipAlgorithmType(trainer.gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, trainer.gradient_clip_val, algorithm)
            return
        super().configure_gradient_clipping(optimizer, *args, **kwargs)

    def on_validation_epoch_start(self) -> None:
        """Learn the cost of decisions and calibrate to the budget before validation, so that checkpoints hold both."""
        if self.target is None or self.trainer.sanity_checking:
            return
        if not self._calibration_batches:
            self._calibration_batches = list(self.trainer.datamodule.calibration_batches())
        if self.model.planner is not None:
            batches = list(self.trainer.datamodule.gain_batches())
            self.log("policy/gain_explained", fit_gains(self.model, self.losses, batches, self.seed))
        if isinstance(self.model, Ladder):
            fit_exits(self.model, self._calibration_batches, self.target)
        self.calibration = calibrate(self.model, self._calibration_batches, self.target, as_trained=True)

    def measure_budgets(self) -> list[Budget] | None:
        """Tabulate what biases come to on the clips of the calibration; None where nothing was calibrated."""
        return budget_table(self.model, self._calibration_batches) if self.calibration is not None else None

    def _share(self, clips: int) -> Tensor | float:
        """Weigh what this process computes of so many clips: the mean over processes is then that over clips."""
        if self.trainer.world_size == 1:
            return 1.0
        return clips / self.trainer.strategy.reduce(torch.tensor(float(clips), device=self.device), reduce_op="mean")

    def _everywhere(self, mean: Tensor, clips: int) -> Tensor:
        """Return the mean over the clips of all processes from that over so many of this one; each must call it."""
        if self.trainer.world_size == 1:
            return mean
        return self.trainer.strategy.reduce(mean * self._share(clips), reduce_op="mean")

    def _run(self, batch: AudioBatch, repeat: Decisions | None = None) -> ModelOutput:
        """Run the model on a batch of training, with draws by the keys of its clips."""
        noise = self.model.noise
        with nullcontext() if noise is None else noise.of(batch.keys):
            return self.model(batch.waveform, batch.lengths, keys=batch.keys, repeat=repeat)

    def _seed(self, key: int) -> None:
        """Seed the step as `torch.manual_seed` does, which takes a millisecond to note the seed of an unused GPU."""
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(key)
        else:
            torch.manual_seed(key)

    # Its terms.

    def _budget_loss(self, output: ModelOutput) -> Tensor | float:
        if self.target is None or self.budget_weight == 0:
            return 0.0
        expected = output.trace.expected_compute.mean()
        if self.trainer.world_size > 1:  # the value is that of all processes, the gradient this one's part
            own = expected.detach()
            expected = expected - own + self._everywhere(own, len(output.trace.macs))
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log("train/expected_compute", expected.detach(), on_step=True, on_epoch=False)
        grown = min(1.0, self.deciding / self.budget_warmup) if self.budget_warmup > 0 else 1.0
        return self.budget_weight * grown * (expected - self.target) ** 2

    def _mixed_losses(self, mixed: Mixed, output: ModelOutput) -> Tensor:
        losses = self.losses(output, mixed.batch)
        if mixed.other is None:
            return losses
        return mixed.share * losses + (1 - mixed.share) * self.losses(output, mixed.other)

    def _policy_loss(self, output: ModelOutput, losses: Tensor, batch: AudioBatch, judge: Judge) -> Tensor | float:
        def second_opinion() -> Tensor:
            return judge(self._run(batch))

        return self.policy_loss(output.trace, losses.detach(), second_opinion, self.deciding)

    def _dense_loss(self, output: ModelOutput, batch: AudioBatch, judge: Judge) -> Tensor | float:
        if self.target is None or self.dense_weight == 0:
            return 0.0
        everything = output.trace.detach().decisions.skip_nothing()
        dense = self._run(batch, everything)
        return self.dense_weight * (judge(dense).mean() + self.distance(output, dense))

    def _waking_loss(self, output: ModelOutput, batch: AudioBatch) -> Tensor | float:
        """Teach what opens spans by the times of events, where labels are such."""
        if output.stage is None or self.labels != "events":
            return 0.0
        frontend = self.model.frontend
        steps = (frontend.frames(batch.lengths) + STEP - 1) // STEP
        sizes = {"step_samples": STEP * frontend.hop, "sample_rate": frontend.sample_rate}
        return waking_losses(output.stage, steps, batch.labels, **sizes).mean()

    # What Lightning asks.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what prediction and reports need to know; plain types, so that weights_only loads them."""
        data = self.trainer.datamodule
        checkpoint["classes"] = list(self.classes)
        checkpoint["clip_seconds"] = {
            "mean": data.mean_samples() / data.sample_rate,  # of the training clips
            "longest": data.longest_samples() / data.sample_rate,  # of all
        }
        logged = self.trainer.callback_metrics.items()
        checkpoint["validation"] = {tag: float(value) for tag, value in logged if tag.startswith("val/")}

    def fresh_optimizer(self) -> torch.optim.Optimizer:
        """Make an optimizer, with rates by layer and weight decay on matrices only."""
        return take_shares(self.make_optimizer(parameter_groups(self.model, self.layer_decay, self.head_rate)))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer, and the schedule of its rates."""
        optimizer = self.fresh_optimizer()
        num_steps = max(1, self.trainer.estimated_stepping_batches)
        # Counting made the iterator over the training batches, too early: Lightning restores only later where a resumed
        # run stands. Without its loader it makes another.
        self.trainer.fit_loop._combined_loader = None
        schedule = self.make_scheduler(optimizer, num_steps)
        refuse_one_rate(optimizer, schedule["scheduler"])
        if isinstance(schedule["scheduler"], Warmed) and schedule["scheduler"].is_clocked:
            schedule["scheduler"].follow(lambda: self.progress)
        return {"optimizer": optimizer, "lr_scheduler": schedule}  # pyright: ignore[reportReturnType]
