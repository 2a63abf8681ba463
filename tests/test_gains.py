"""What decisions cost is found on the model as it stands, and the model stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hopscotch.build import build_model
from hopscotch.models.audio_model import AudioModel
from hopscotch.training import gains
from hopscotch.training.calibration import calibrate
from hopscotch.training.gains import fit_gains
from hopscotch.types import AudioBatch, ModelOutput
from tests.small_models import decide_at_random
from tests.tiny import make_batch, tiny_config

PLANNED = {
    "learned_skip": ("model.encoder.estimator=gain", "model.encoder.gate_input=first", "model.encoder.tied=true"),
    "skip_transformer": ("model.encoder.policy.estimator=gain",),
    "jump_attention": ("model.encoder.policy.estimator=gain", "model.encoder.policy.sees=input"),
}


@pytest.fixture
def make_model(tmp_path: Path):
    def make(name: str, *overrides: str) -> AudioModel:
        torch.manual_seed(0)
        words = (f"model={name}", *overrides, "model.depth=4")
        return build_model(tiny_config(tmp_path, tmp_path, *words), num_classes=3).eval()

    return make


def batches() -> list[AudioBatch]:
    batch = make_batch(48, samples=(1600,))
    return [AudioBatch(*(part[i : i + 16] for part in batch)) for i in range(0, 48, 16)]


class Costly:
    """A loss that is what was skipped, in odd clips alone: the model cannot know, its summary of a clip can."""

    def __init__(self, model: AudioModel) -> None:
        self.trace = None
        model.register_forward_hook(self.keep)

    def keep(self, module: object, inputs: object, output) -> None:
        self.trace = output.trace

    def __call__(self, output: ModelOutput, batch: AudioBatch) -> Tensor:
        assert self.trace is not None
        loud = batch.labels == 0
        return 2.0 + torch.where(loud, 5.0 * (1.0 - self.trace.fraction.float()), 0.0)


@pytest.mark.parametrize(
    "name", [name if name == "learned_skip" else pytest.param(name, marks=pytest.mark.slow) for name in PLANNED]
)
def test_a_fit_finds_the_clips_that_skipping_costs_and_changes_the_net_alone(make_model, name: str) -> None:
    model = make_model(name, *PLANNED[name])
    net = {id(value) for value in model.planner.gain_net.parameters()}
    fitted = {key for key, value in model.named_parameters(remove_duplicate=False) if id(value) in net}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explained = fit_gains(model, Costly(model), batches(), seed=0)
    assert explained > 0.5
    once = {key: value.clone() for key, value in model.state_dict().items()}
    assert {key for key in once if not torch.equal(once[key], before[key])} == fitted
    assert not any(value.requires_grad for value in model.planner.gain_net.parameters())
    with torch.inference_mode():  # as a trainer validates; the same again
        assert fit_gains(model, Costly(model), batches(), seed=0) == explained
    assert all(torch.equal(value, once[key]) for key, value in model.state_dict().items())
    labels = torch.cat([batch.labels for batch in batches()])
    model.decision_bias.fill_(-1.0)
    fractions = torch.cat([model(batch.waveform, batch.lengths).trace.fraction for batch in batches()])
    assert fractions[labels == 0].mean() > fractions[labels != 0].mean() + 0.02


@pytest.mark.parametrize("name", PLANNED)
def test_drawn_decisions_are_of_every_cost_and_the_same_for_a_seed(make_model, name: str) -> None:
    model = make_model(name, *PLANNED[name])
    batch = batches()[0]
    trace = model(batch.waveform, batch.lengths).trace

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        taken = [model.planner.random_decisions(trace, generator) for _ in range(20)]
        runs = [model(batch.waveform, batch.lengths, repeat=decisions).trace for decisions in taken]
        return torch.stack([run.fraction for run in runs])

    fractions = draw(0)
    assert torch.equal(draw(0), fractions)
    assert not torch.equal(draw(1), fractions)
    model.decision_bias.fill_(-1000.0)
    cheapest = model(batch.waveform, batch.lengths).trace.fraction.min()
    if name != "jump_attention":  # whose token gates go on deciding
        assert fractions.max() > 0.95
        assert fractions.min() < cheapest + 0.3 * (1 - cheapest)


@pytest.mark.parametrize("name", PLANNED)
def test_behind_a_gate_it_is_fitted_to_what_decisions_are_planned_from_in_use(
    make_model, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def fit(planner: nn.Module, summaries: Tensor, *_: object) -> float:
        fitted.append(summaries)
        return 0.0

    monkeypatch.setattr(gains, "_fit", fit)
    model = make_model(name, *PLANNED[name], "model.open_rate=0.5")
    decide_at_random(model, batches()[0].waveform, batches()[0].lengths)
    calibrate(model, batches(), 0.6)
    bias = model.decision_bias.item()
    traces = [model(batch.waveform, batch.lengths).trace for batch in batches()]
    assert all(0 < float(trace.tokens.float().mean()) < 1 for trace in traces)
    fit_gains(model, lambda output, batch: torch.zeros(len(batch.labels)), batches(), seed=0)
    in_use = torch.cat([trace.summary.repeat(gains.NUM_DRAWS, 1) for trace in traces])
    torch.testing.assert_close(fitted[0], in_use, rtol=0, atol=1e-5)
    assert model.decision_bias.item() == bias


def test_other_estimators_have_nothing_to_fit(make_model) -> None:
    assert all(make_model(name).planner is None for name in (*PLANNED, "dense"))


def test_what_is_decided_layer_by_layer_cannot_be_planned(make_model) -> None:
    with pytest.raises(ValueError, match=r"gate_input must be first or encoder under estimator=gain, got layer"):
        make_model("learned_skip", "model.encoder.estimator=gain")
    with pytest.raises(
        ValueError, match=r"^model\.encoder: policy_sees must be input or first under policy_estimator=gain, got state"
    ):
        make_model("skip_transformer", "model.encoder.policy.estimator=gain", "model.encoder.policy.sees=state")
    with pytest.raises(ValueError, match=r"^model\.encoder: tied must be false under estimator=gain, got true"):
        make_model("skip_transformer", "model.encoder.policy.estimator=gain", "model.encoder.policy.tied=true")
