"""What may be asked of a model, and the bias that makes its decisions cost just that."""

import time
from pathlib import Path

import pytest
import torch

from hopscotch.build import build_model
from hopscotch.models.audio_model import AudioModel
from hopscotch.predict import load
from hopscotch.restore import restore
from hopscotch.run import attempt
from hopscotch.training.calibration import (
    MAX_TABLE_PASSES,
    OPEN_TOLERANCE,
    TOLERANCE,
    _counted,
    bias_for,
    budget_table,
    calibrate,
    deterministic_fraction,
    is_table,
    resolve_target,
)
from hopscotch.training.checkpoint import read_checkpoint
from hopscotch.types import AudioBatch
from tests.tiny import make_batch, tiny_config

SAMPLES = 1280
DECIDING = ("jump_attention", "learned_skip", "skip_layer", "skip_layer_plain", "skip_transformer")


@pytest.fixture
def make_model(tmp_path: Path):
    def make(name: str, *overrides: str) -> AudioModel:
        torch.manual_seed(0)
        model = build_model(tiny_config(tmp_path, tmp_path, f"model={name}", *overrides), num_classes=3)
        with torch.no_grad():  # fresh deciders say nearly the same of all clips: let them differ
            for part, parameter in model.named_parameters():
                if part.endswith(("policy.output.weight", "gate.net.2.weight")):
                    parameter.mul_(30)
        return model

    return make


@pytest.mark.parametrize("name", DECIDING)
def test_auto_is_the_asked_share_of_the_way_from_the_floor(make_model, name: str) -> None:
    model = make_model(name)
    cost = model.cost(SAMPLES)
    floor, ceiling = cost.floor, cost.ceiling
    assert 0 < floor < ceiling <= 1
    assert (ceiling < 1) == (name == "jump_attention"), "the strides behind the jumps are fixed"
    assert resolve_target("auto", model, SAMPLES, 0.5) == pytest.approx((floor + ceiling) / 2)
    assert resolve_target("auto", model, SAMPLES, 0.2) == pytest.approx(0.8 * floor + 0.2 * ceiling)
    assert resolve_target(floor, model, SAMPLES, 0.5) == floor
    assert resolve_target(ceiling, model, SAMPLES, 0.5) == ceiling


@pytest.mark.parametrize("name", [*DECIDING, "dense"])
def test_behind_a_gate_auto_is_no_more_than_training_ends_with(make_model, name: str) -> None:
    model = make_model(name, "model.open_rate=0.5")
    assert (
        resolve_target("auto", model, SAMPLES, 1.0)
        == model.cost(SAMPLES).trained / model.cost(SAMPLES).dense
        < model.cost(SAMPLES).ceiling
    )
    cost = model.cost(SAMPLES)
    floor, ceiling = cost.floor, cost.ceiling
    assert resolve_target("auto", model, SAMPLES, 0.1) == pytest.approx(0.9 * floor + 0.1 * ceiling)


@pytest.mark.parametrize("overrides", [(), ("model.open_rate=0.5",)], ids=["", "behind a gate"])
@pytest.mark.parametrize("name", [*DECIDING, "skip_attention"])
def test_a_bias_beyond_all_decisions_reaches_the_ceiling(make_model, name: str, overrides: tuple[str, ...]) -> None:
    model, batches = make_model(name, *overrides), [make_batch(6, samples=[SAMPLES])]
    assert calibrate(model, batches, 1.0).achieved == pytest.approx(model.cost(SAMPLES).ceiling, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("skip_transformer", ("model.depth=2",)),
        ("skip_transformer", ("model.encoder.jump.rule=literal", "model.encoder.jump.max=1")),
        ("learned_skip", ("model.encoder.max_stride=1",)),
    ],
)
def test_a_model_that_has_nothing_to_skip_is_refused(make_model, name: str, overrides: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must have something to skip"):
        resolve_target("auto", make_model(name, *overrides), SAMPLES, 0.5)


@pytest.mark.parametrize("name", DECIDING)
def test_a_target_below_the_floor_is_refused_with_the_floor_named(make_model, name: str) -> None:
    model = make_model(name)
    cost = model.cost(SAMPLES)
    floor, ceiling = cost.floor, cost.ceiling
    with pytest.raises(
        ValueError, match=rf"compute\.target .* floor of {name}, {floor:.3f}, and {ceiling:.3g}, got 0\.01\."
    ):
        resolve_target(0.01, model, SAMPLES, 0.5)


@pytest.mark.parametrize("name", ["dense", "skip_attention"])
def test_a_model_without_decisions_takes_no_number(make_model, name: str) -> None:
    model = make_model(name)
    assert resolve_target("auto", model, SAMPLES, 0.5) is None
    with pytest.raises(ValueError, match=rf"compute\.target=0\.9 has no meaning for model={name}, which makes no dec"):
        resolve_target(0.9, model, SAMPLES, 0.5)


@pytest.mark.parametrize("name", DECIDING)
def test_calibration_meets_the_targets_in_between(make_model, name: str) -> None:
    model = make_model(name)
    batches = [make_batch(64)]
    low, high = (calibrate(model, batches, end).achieved for end in (0.0, 1.0))
    for target in (low + 0.3 * (high - low), low + 0.7 * (high - low)):
        found = calibrate(model, batches, target)
        assert found.requested == target
        assert found.achieved == pytest.approx(target, abs=5 * TOLERANCE)  # 64 clips cannot meet it finer
        assert deterministic_fraction(model.eval(), batches) == found.achieved
        assert model.decision_bias.item() == pytest.approx(found.bias)


@pytest.mark.parametrize("name", ["learned_skip", "skip_transformer"])
def test_calibration_ends_at_the_floor_and_at_dense(make_model, name: str) -> None:
    model = make_model(name)
    batches = [make_batch(6, samples=[SAMPLES])]
    assert calibrate(model, batches, 0.0).achieved == pytest.approx(model.cost(SAMPLES).floor)
    assert calibrate(model, batches, 1.0).achieved == 1.0


def noises(num_clips: int, seed: int) -> AudioBatch:
    """Noise of as many colours and lengths as there are clips."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(800, 1600, (num_clips,), generator=generator)
    waveform = torch.randn(num_clips, 1600, generator=generator)
    slope = torch.rand(num_clips, 1, generator=generator)
    waveform = waveform[:, 1:] - (2 * slope - 1) * waveform[:, :-1]
    waveform = torch.nn.functional.pad(waveform, (0, 1)) * (torch.arange(1600) < lengths[:, None])
    numbers = torch.arange(num_clips)
    return AudioBatch(waveform, lengths, numbers, numbers, numbers)


# Random deciders send most clips one way at a time: jumps are held to half a row of their table, on its own clips.
@pytest.mark.parametrize(
    ("name", "num_clips", "seed", "within"),
    [
        ("learned_skip", 200, 2, 0.02),
        ("skip_layer", 60, 1, 0.045),
        ("skip_transformer", 60, 1, 0.045),
    ],
)
def test_a_table_meets_budgets_on_clips_that_it_was_not_measured_on(
    make_model, name: str, num_clips: int, seed: int, within: float
) -> None:
    model = make_model(name).train()
    model.decision_bias.fill_(0.1)
    table = budget_table(model, [noises(num_clips, seed=1)])
    assert (model.training, float(model.decision_bias)) == (True, pytest.approx(0.1)), "the model is as it was"
    assert is_table([list(row) for row in table])
    assert 4 <= len(table) <= MAX_TABLE_PASSES
    low, high = table[0].fraction, table[-1].fraction
    clips = [noises(num_clips, seed=seed)]
    for share in (0.1, 0.5, 0.9):
        budget = low + share * (high - low)
        model.eval().decision_bias.fill_(bias_for(table, budget))
        assert deterministic_fraction(model, clips) == pytest.approx(budget, abs=within)
    with pytest.raises(ValueError, match=rf"budget must lie between {low:.3f} and {high:.3f}, .* got 0\.01"):
        bias_for(table, 0.01)


def test_a_run_ends_with_a_table_in_its_best_checkpoint(tones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = attempt(
        tiny_config(tones, run, "model=learned_skip", "trainer.max_epochs=1"), run, [], time.time(), is_job=False
    )
    assert summary["status"] == "finished"
    table = restore(run).budgets
    assert table[0].fraction < summary["kept"]["compute_fraction"] < table[-1].fraction
    kept, last = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert set(kept) - set(last) == {"budgets"}
    bias = float(kept["state_dict"]["model.decision_bias"])
    assert float(load(run).model.decision_bias) == bias, "as trained where no budget is given"
    assert float(load(run, budget=table[-1].fraction).model.decision_bias) != bias
    names = ("best.ckpt", "last.ckpt")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {*names, *(f"{name}.sha256" for name in names)}


def test_a_model_without_decisions_has_no_table_and_takes_no_budget(tones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt(tiny_config(tones, run, "model=dense", "trainer.max_epochs=1"), run, [], time.time(), is_job=False)
    assert restore(run).budgets == []
    with pytest.raises(ValueError, match="budget has no meaning for model=dense, which makes no decisions"):
        load(run, budget=0.6)


@pytest.mark.parametrize(
    "rows",
    [
        5,
        [],
        [[0.0]],
        [[0.0, 0.5], [0.0, 0.6]],
        [[0.0, 0.5], [1.0, 0.5]],
        [[0.0, float("nan")]],
        [[float("inf"), 0.5]],
        [[1, 0.5]],
        [[0.0, 0.0]],
        [[1e6, 0.5]],
        [[0.001 * i, 0.001 * i] for i in range(1, 70)],
    ],
    ids=str,
)
def test_a_table_out_of_bounds_is_refused(rows: object, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({**torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True), "budgets": rows}, path)
    with pytest.raises(ValueError, match=r"ckpt must have rising biases and fractions as budgets, .*a\.ckpt has not"):
        read_checkpoint(path)


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_the_mode_as_it_was(make_model, training: bool) -> None:
    model = make_model("skip_layer").train(training)
    before = {name: value.clone() for name, value in model.state_dict().items() if name != "decision_bias"}
    calibrate(model, [make_batch(6)], 0.7)
    assert model.training is training
    assert [name for name, value in before.items() if not torch.equal(value, model.state_dict()[name])] == []


@pytest.mark.parametrize("name", ["skip_transformer", "skip_layer", "learned_skip"])
def test_training_opens_no_gate_for_a_target_that_routes_miss(make_model, name: str) -> None:
    """With gates at 0.6 of the tokens and clips that skip layers, a bias alone would open the gates."""
    words = ("gate.open_rate=0.6",) if name == "skip_layer" else ("model.open_rate=0.6", "model.positions=none")
    model, batches = make_model(name, *words), [make_batch(12, samples=[SAMPLES])]
    model.train()
    model.set_progress(1.0)
    for _ in range(30):
        model(batches[0].waveform, batches[0].lengths)
    model.eval()

    def shares() -> list[float]:
        with _counted(model.encoder.gates) as found:
            deterministic_fraction(model, batches)
        return list(found.values())

    for gate in model.encoder.gates:
        gate.measured_rate.fill_(0.6)
    calibrate(model, batches, 0.98)
    assert max(shares()) > 0.75, "whoever asks for a budget gets it"
    model.decision_bias.zero_()
    found = calibrate(model, batches, 0.98, as_trained=True)
    assert found.is_capped
    (warning,) = found.warnings()
    assert warning.startswith(f"gates held the budget: validation clips use {found.achieved:.3f} of the dense")
    assert found.achieved < 0.98 - TOLERANCE
    assert found.bias >= 0
    if found.bias > 0:
        assert max(shares()) <= 0.6 + OPEN_TOLERANCE
    cheap = calibrate(model, batches, found.achieved - 0.1, as_trained=True)
    assert not cheap.warnings()
