"""The loop: what the thresholds are told, who gets a gradient, and what stops a run."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from hopscotch.training import task as base
from hopscotch.training.calibration import calibrate
from hopscotch.training.task import AudioTask
from hopscotch.types import AudioBatch, ModelOutput, key_bits
from tests.small_models import classifier
from tests.tiny import Watch, build, fit, make_batch, tiny_config, weights

# Nothing random in a step, so that batches of any size see the same model.
NO_NOISE = ("model.dropout=0", "augment=none", "data.val_fraction=0.15", "data.test_fraction=0.15")


class Told(NamedTuple):
    loss: float
    step: int  # optimizer steps done, this one included


def listen(task: AudioTask, monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What update_threshold is called with."""
    told: list[Told] = []
    update = task.model.update_threshold

    def keep(loss: Tensor, lr: float) -> None:
        told.append(
            Told(float(loss), task.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer_steps)
        )
        update(loss, lr)

    monkeypatch.setattr(task.model, "update_threshold", keep)
    return told


def told_of(cfg, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Told], Watch, Trainer]:
    built, watch = build(cfg), Watch()
    told = listen(built[0], monkeypatch)
    return told, watch, fit(cfg, watch, built=built)


def test_accumulated_batches_tell_the_thresholds_what_one_large_batch_does(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 clips: at once, and as 4 + 4 + 4 + 3."""
    large = tiny_config(tones, tmp_path, "model=dense", *NO_NOISE, "data.batch_size=15")
    small = tiny_config(tones, tmp_path, "model=dense", *NO_NOISE, "trainer.accumulate_grad_batches=4")
    (expected,), _, _ = told_of(large, monkeypatch)
    (found,), watch, _ = told_of(small, monkeypatch)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert len(watch.losses) == 4
    assert found.loss != pytest.approx(sum(watch.losses) / 4, rel=1e-5)  # weighted by clips, not by batches


def test_thresholds_are_told_once_after_every_optimizer_step(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five batches of three clips, accumulated by two: steps of 2, 2 and 1 batches."""
    cfg = tiny_config(tones, tmp_path, "model=skip_layer", "data.batch_size=3", "trainer.accumulate_grad_batches=2")
    told, watch, trainer = told_of(cfg, monkeypatch)
    losses = watch.losses
    assert trainer.global_step == len(told) == 3
    pairs = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert [entry.loss for entry in told] == pytest.approx(pairs)
    num_updates = [int(value) for name, value in weights(trainer).items() if name.endswith("gate.num_updates")]
    assert num_updates == [3, 3, 3]


@pytest.mark.parametrize("overrides", [(), ("trainer.accumulate_grad_batches=3",)], ids=["each", "accumulated"])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_clips(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    cfg = tiny_config(tones, tmp_path, "model=dense", "trainer.max_epochs=3", *overrides)
    task, data = build(cfg)
    measure, bad = task.losses, []

    def losses(output: ModelOutput, batch: AudioBatch) -> Tensor:
        losses = measure(output, batch)
        if task.global_step == 1 and task.training:
            bad.append(data.clips["train"][int(batch.indices[1])].name)
            losses = losses.index_fill(0, torch.tensor([1]), torch.nan)
        return losses

    monkeypatch.setattr(task, "losses", losses)
    task.guard.patience = 1
    with pytest.raises(ValueError, match="Step 1 is not finite: its loss is nan") as caught:
        fit(cfg, built=(task, data))
    assert f"clips: {bad[0]}. Try" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "overrides"),
    [
        ("attention.gate.", ("model=learned_skip", "model.encoder.estimator=selected")),
        ("attention.gate.", ("model=learned_skip", "model.encoder.estimator=soft")),
        ("block.policy.", ("model=skip_layer",)),
        ("block.policy.", ("model=skip_transformer",)),
        ("layers.0.gate.", ("model=skip_layer",)),
    ],
)
def test_the_task_alone_reaches_what_decides_at_every_step(
    tones: Path, tmp_path: Path, part: str, overrides: tuple[str, ...]
) -> None:
    task_alone = ("compute.weight=0", "compute.entropy_weight=0")
    watch = Watch(part)
    fit(tiny_config(tones, tmp_path, *overrides, *task_alone, "data.batch_size=8", "trainer.max_epochs=3"), watch)
    assert len(watch.gradients) == 6
    assert min(watch.gradients) > 1e-7


@pytest.mark.parametrize(
    ("model", "share"),
    [("learned_skip", 0.1), ("skip_layer", 0.9), ("skip_transformer", 0.1), ("skip_transformer", 0.9)],
)
def test_the_budget_pulls_the_expected_compute_to_its_target(
    tones: Path, tmp_path: Path, model: str, share: float
) -> None:
    """`share`: of the way from the floor to dense."""
    strong = ("compute.weight=300", "compute.warmup=0", "optimizer.lr=0.02", "data.batch_size=15")
    task, data = built = build(tiny_config(tones, tmp_path, f"model={model}", *strong))
    floor = task.model.cost(round(data.mean_samples())).floor
    task.target = floor + share * (1 - floor)
    watch = Watch()
    fit(
        tiny_config(tones, tmp_path, f"model={model}", *strong, "trainer.max_epochs=20", "trainer.limit_val_batches=0"),
        watch,
        built=built,
    )
    before, after = (abs(watch.expected[step] - task.target) for step in (0, -1))
    assert after < 0.5 * before


def test_the_weight_of_the_budget_grows_from_nothing(tones: Path, tmp_path: Path) -> None:
    class Terms(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            gap = outputs["step"].output.trace.expected_compute.mean() - pl_module.target
            terms.append(float(outputs["loss"] - outputs["step"].task_loss) / float(gap**2))

    terms: list[float] = []
    overrides = ("model=learned_skip", "compute.weight=8", "compute.warmup=0.5", "compute.entropy_weight=0")
    fit(tiny_config(tones, tmp_path, *overrides), Terms())
    assert terms == pytest.approx([0, 4, 8, 8], rel=1e-2, abs=1e-3)


def test_a_checkpoint_holds_the_bias_that_met_the_budget(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, "model=skip_layer", "compute.target=0.9")
    trainer = fit(cfg, ModelCheckpoint(tmp_path, filename="kept"))
    task = trainer.model
    assert isinstance(task, AudioTask)
    assert task.calibration is not None
    assert task.calibration.requested == 0.9
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)["state_dict"]
    assert kept["model.decision_bias"].item() == pytest.approx(task.calibration.bias)
    assert kept["model.decision_bias"].item() != 0
    assert trainer.callback_metrics["val/compute_fraction"].item() == pytest.approx(task.calibration.achieved, abs=1e-5)


@pytest.mark.parametrize("model", ["dense", "learned_skip", "skip_layer", "skip_transformer"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train_and_clip(tones: Path, tmp_path: Path, model: str, precision: str) -> None:
    cfg = tiny_config(
        tones, tmp_path, f"model={model}", f"trainer.precision={precision}", "trainer.limit_val_batches=2"
    )
    assert cfg.trainer.gradient_clip_val > 0
    assert cfg.optimizer.fused
    trainer = fit(cfg)
    assert trainer.global_step > 0
    assert all(bool(torch.isfinite(value).all()) for value in weights(trainer).values())


def test_gradients_are_clipped_in_bfloat16_too(tones: Path, tmp_path: Path) -> None:
    class Norms(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            gradients = [parameter.grad.norm() for parameter in pl_module.parameters() if parameter.grad is not None]
            norms.append(torch.stack(gradients).norm().item())

    norms: list[float] = []
    cfg = tiny_config(tones, tmp_path, "model=dense", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1e-3")
    task, data = build(cfg)
    clip = task.configure_gradient_clipping
    clipped: list[float] = []

    def watched(optimizer: Any, *args: Any, **kwargs: Any) -> None:
        clip(optimizer, *args, **kwargs)
        gradients = [parameter.grad.norm() for parameter in task.parameters() if parameter.grad is not None]
        clipped.append(torch.stack(gradients).norm().item())

    task.configure_gradient_clipping = watched  # type: ignore[method-assign]
    fit(cfg, Norms(), built=(task, data))
    assert min(norms) > 1e-3
    assert clipped == pytest.approx([1e-3] * len(norms), rel=1e-2)


def test_an_optimizer_that_lacks_a_key_is_named(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.betas.*: there is no key optimizer\.betas\."):
        tiny_config(tones, tmp_path, "model=dense", "optimizer._target_=torch.optim.SGD")


@pytest.mark.parametrize(
    "words", [("model=learned_skip",), ("model=skip_transformer",), ("model=dense", "model.open_rate=0.5")]
)
def test_a_second_pass_skips_nothing_and_teaches_the_first(tones: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    task, _ = build(tiny_config(tones, tmp_path, *words, "compute.dense_weight=2"))
    task.model.eval()
    batch = make_batch(6)
    gaps = []
    for bias in (1490.0, -1490.0):  # everything, and as little as can be
        task.model.decision_bias.fill_(bias)
        output = task.model(batch.waveform, batch.lengths)
        whole = task.model(batch.waveform, batch.lengths, repeat=output.trace.decisions.skip_nothing())
        assert whole.trace.fraction.tolist() == [1.0] * 6
        loss = task._dense_loss(output, batch, partial(task.losses, batch=batch))
        gaps.append((loss / 2 - task.losses(whole, batch).mean()).item())  # type: ignore[union-attr]
    assert gaps[0] == pytest.approx(0.0, abs=1e-5)
    assert gaps[1] > 1e-4


def test_the_second_pass_learns_from_the_labels_and_the_first_from_it(tones: Path, tmp_path: Path) -> None:
    """KL(teacher || pupil), and no gradient to the teacher."""
    task, _ = build(tiny_config(tones, tmp_path, "model=learned_skip", "compute.dense_weight=2"))
    model, batch = task.model.eval(), make_batch(6)
    with torch.no_grad():
        classifier(model).weight.mul_(20)  # so that the two directions differ
    model.decision_bias.fill_(-1490.0)
    output = model(batch.waveform, batch.lengths)
    dense = model(batch.waveform, batch.lengths, repeat=output.trace.decisions.skip_nothing())
    own = 2 * task.losses(dense, batch).mean()
    teacher, pupil = dense.logits.detach().softmax(-1), output.logits.detach().softmax(-1)
    from_it = 2 * (teacher * (teacher / pupil).log()).sum(-1).mean()
    other_way = 2 * (pupil * (pupil / teacher).log()).sum(-1).mean()
    assert abs(from_it - other_way) > 1e-5
    loss = task._dense_loss(output._replace(logits=output.logits.detach()), batch, partial(task.losses, batch=batch))
    assert isinstance(loss, Tensor)
    torch.testing.assert_close(loss, own + from_it, rtol=0, atol=1e-6)
    weight = classifier(model).weight
    (ours,), (theirs,) = torch.autograd.grad(loss, weight), torch.autograd.grad(own, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_step_has_the_second_pass_in_it(tones: Path, tmp_path: Path) -> None:
    class Beside(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            beside.append(float(outputs["loss"] - outputs["step"].task_loss))

    beside: list[float] = []
    words = ("model=learned_skip", "compute.weight=0", "compute.entropy_weight=0", "compute.dense_weight=2")
    fit(tiny_config(tones, tmp_path, *words), Beside())
    assert min(beside) > 0.5


def test_gains_are_fitted_to_training_clips_and_then_the_budget_is_met(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(model: Any, losses: Any, batches: Any, seed: int) -> float:
        done.append(f"fit to {sum(len(batch.labels) for batch in batches)} clips")
        return 0.5

    def calibrated(*what: Any, **how: Any) -> Any:
        done.append("calibrate")
        return calibrate(*what, **how)

    done: list[str] = []
    monkeypatch.setattr(base, "fit_gains", fitted)
    monkeypatch.setattr(base, "calibrate", calibrated)
    trainer = fit(tiny_config(tones, tmp_path, "model=skip_transformer_gain"))
    assert done == ["fit to 15 clips", "calibrate"]
    assert trainer.callback_metrics["policy/gain_explained"] == 0.5


def test_what_is_random_in_a_step_follows_the_seed(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(AudioTask, "_seed", lambda self, key: seen.append(key))
    trainer = fit(tiny_config(tones, tmp_path, "model=dense", "seed=5"))
    assert seen == [key_bits(5, 0, step, 0) for step in range(trainer.global_step)]


@pytest.mark.parametrize("estimator", ["selected", "soft", "reinforce", "gain"])
def test_the_second_pass_of_training_is_the_dense_run(tones: Path, tmp_path: Path, estimator: str) -> None:
    words = ("model=learned_skip", f"model.encoder.estimator={estimator}", "model.dropout=0")
    words += ("model.encoder.gate_input=first",) if estimator == "gain" else ()
    model = build(tiny_config(tones, tmp_path, *words))[0].model
    batch = make_batch(6)
    model.decision_bias.fill_(1490.0)
    dense = model.eval()(batch.waveform, batch.lengths)
    model.spectrogram_augment = None
    again = model.train()(batch.waveform, batch.lengths, repeat=dense.trace.decisions.skip_nothing())
    torch.testing.assert_close(again.logits, dense.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", ["learned_skip", "skip_layer", "skip_transformer", "jump_attention"])
def test_every_model_learns_from_a_second_pass(tones: Path, tmp_path: Path, model: str) -> None:
    words = (f"model={model}", "model.open_rate=0.6", "compute.dense_weight=1", "trainer.max_epochs=2")
    trainer = fit(tiny_config(tones, tmp_path, *words))
    assert trainer.global_step == 8
    assert all(bool(torch.isfinite(value).all()) for value in weights(trainer).values())


def test_without_its_weight_there_is_no_second_pass(tones: Path, tmp_path: Path) -> None:
    task, _ = build(tiny_config(tones, tmp_path, "model=learned_skip"))
    batch = make_batch(6)
    output = task.model(batch.waveform, batch.lengths)
    assert task._dense_loss(output, batch, partial(task.losses, batch=batch)) == 0.0


def test_every_validation_clip_is_judged_where_workers_load_them(tones: Path, tmp_path: Path) -> None:
    class Count(Callback):
        def on_validation_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            assert isinstance(batch, AudioBatch)
            clips.append(len(batch.labels))

    clips: list[int] = []
    fit(tiny_config(tones, tmp_path, "model=learned_skip", "data.num_workers=1"), Count())
    assert sum(clips) == 3


def test_the_rate_warms_up_and_falls_along_a_cosine(tones: Path, tmp_path: Path) -> None:
    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    rates: list[float] = []
    fit(
        tiny_config(tones, tmp_path, "model=dense", "optimizer.lr=1", "scheduler.warmup=0.5", "trainer.max_epochs=2"),
        Rates(),
    )
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.8535534, 0.5, 0.1464466])


def test_weight_decay_spares_what_is_no_matrix(tones: Path, tmp_path: Path) -> None:
    trainer = fit(tiny_config(tones, tmp_path, "model=skip_layer"))
    matrices, rest = trainer.optimizers[0].param_groups
    assert matrices["weight_decay"] == 0.05
    assert {parameter.ndim >= 2 for parameter in matrices["params"]} == {True}
    assert rest["weight_decay"] == 0
    assert {parameter.ndim >= 2 for parameter in rest["params"]} == {False}
    task = trainer.model
    assert isinstance(task, AudioTask)
    assert task.num_parameters == sum(p.numel() for group in (matrices, rest) for p in group["params"])


@pytest.mark.parametrize("cut_short", [False, True])
def test_an_epoch_is_told_with_its_own_training_accuracy(tones: Path, tmp_path: Path, cut_short: bool) -> None:
    class Told(Callback):
        def __init__(self) -> None:
            self.epochs: list[dict[str, float]] = []

        def on_train_epoch_end(self, trainer: Trainer, pl_module: AudioTask) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    told = Told()
    steps = ["trainer.max_steps=5"] if cut_short else []
    trainer = fit(tiny_config(tones, tmp_path, "model=dense", "trainer.max_epochs=2", *steps), told)
    whole = told.epochs[:1] if cut_short else told.epochs
    assert len(told.epochs) == 2
    assert all("train/acc" in epoch and "val/acc" in epoch for epoch in whole)
    last = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert "train/acc" in last
    if not cut_short:
        assert told.epochs[-1]["train/acc"] == last["train/acc"]
