"""Exits: what all so far say together, who leaves and what that saves, and how thresholds are chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hopscotch.build import build_model
from hopscotch.layers.exits import Exits, log_odds
from hopscotch.models.exits import EarlyExit
from hopscotch.models.stack import Stack
from hopscotch.models.stem import Conv2dStem
from hopscotch.predict import load
from hopscotch.training.exits import exit_losses, fit_exits, fit_temperatures, fit_thresholds, hear, leaving
from hopscotch.types import AtExits
from tests.small_models import decide_at_random, halving
from tests.tiny import build, fit, make_batch, tiny_config
from tests.trained import write_run

SAMPLES = (1600, 960, 1280, 1600)
SIZE = ("model=early_exit", "model.depth=4", "model.exits.every=1", "model.dropout=0")


def make(folder: Path, *changes: str) -> tuple[EarlyExit, tuple[Tensor, Tensor]]:
    """A toy model in evaluation, half of the clips that are left leaving by each exit, and eight clips."""
    torch.manual_seed(0)
    model = build_model(tiny_config(folder, folder, *SIZE, *changes), num_classes=3)
    assert isinstance(model, EarlyExit)
    batch = make_batch(8, SAMPLES)
    model.frontend.measure([batch])
    decide_at_random(model, batch.waveform, batch.lengths)
    return model, (batch.waveform, batch.lengths)


def test_what_is_said_is_the_weighted_geometric_mean_of_all_exits_so_far() -> None:
    exits, logits = Exits([4, 4, 4], rule="confidence"), torch.randn(3, 5, 7)
    assert exits.log_weights is not None
    assert exits.log_weights.exp().tolist() == pytest.approx([1, 2, 3])
    torch.nn.init.normal_(exits.log_weights)
    weights, joined = exits.log_weights.exp(), None
    for number in range(3):
        joined = exits.join(number, joined, logits[number])
        product = torch.ones(5, 7)
        for weight, one in zip(weights[: number + 1], logits, strict=False):
            product = product * one.softmax(dim=-1) ** (weight / weights[: number + 1].sum())
        torch.testing.assert_close(joined.log_probs.exp(), product / product.sum(dim=1, keepdim=True))


def test_log_odds_are_exact_where_single_precision_says_1() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [30.0 - np.log(2), -np.log(2)]
    assert log_odds(logits.log_softmax(dim=-1)).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("rule", ["confidence", "learned"])
def test_clips_leave_by_the_first_exit_whose_score_passes_its_threshold(rule: str, tmp_path: Path) -> None:
    model, clips = make(tmp_path, f"model.exits.rule={rule}")
    model.exits.temperatures.copy_(torch.linspace(0.5, 2.0, model.exits.number))
    with torch.no_grad():
        model.exits.thresholds.copy_(halving(model.exits.scores(model.at_exits(*clips))))
        output, at = model(*clips), model.at_exits(*clips)
    scores, said = model.exits.scores(at), at.log_probs
    exits = output.trace.decisions.exits
    assert exits is not None
    for clip in range(len(scores)):
        passes = [place for place, score in enumerate(scores[clip]) if score > model.exits.thresholds[place]]
        left = passes[0] if passes else model.exits.number - 1
        assert int(exits[clip]) == left - (model.exits.number - 1)
        torch.testing.assert_close(output.logits[clip], said[clip, left], rtol=0, atol=1e-5)
    assert len(set(exits.tolist())) >= 3, "or this tests little"


def test_layers_get_only_the_clips_that_stay(tmp_path: Path) -> None:
    model, clips = make(tmp_path)
    seen: dict[str, int] = {}
    assert isinstance(model.stem, Conv2dStem)
    assert isinstance(model.encoder, Stack)
    parts = {"inner": model.stem.stages[1], "stem": model.stem.linear}
    parts |= {f"layer {layer}": block for layer, block in enumerate(model.encoder.blocks)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: len(inputs[0])}))
    with torch.no_grad():
        trace = model(*clips).trace
    assert trace.decisions.exits is not None
    exits = (trace.decisions.exits + model.exits.number - 1).tolist()
    expected = {"inner": 8, "stem": sum(left > 0 for left in exits)}
    expected |= {f"layer {layer}": sum(left > layer + 1 for left in exits) for layer in range(4)}
    assert {name: seen.get(name, 0) for name in expected} == expected
    assert trace.visited.sum(dim=1).tolist() == [max(0, left - 1) for left in exits]
    assert trace.macs.tolist() == [int(row[left]) for row, left in zip(model.costs(clips[1])[0], exits, strict=True)]
    assert not bool((trace.jumps >= 0).any())
    assert not bool(trace.landings.any())


def test_a_higher_bias_lets_no_clip_leave_earlier(tmp_path: Path) -> None:
    model, clips = make(tmp_path)
    before = torch.full((8,), -model.exits.number)
    for bias in (-3.0, -0.1, 0.0, 0.1, 3.0, 100.0):
        model.decision_bias.fill_(bias)
        with torch.no_grad():
            exits = model(*clips).trace.decisions.exits
        assert bool((exits >= before).all())
        before = exits
    assert before.tolist() == [0] * 8


def test_skipping_nothing_is_a_decision_to_repeat(tmp_path: Path) -> None:
    model, clips = make(tmp_path)
    with torch.no_grad():
        trace = model(*clips).trace
        assert int(trace.macs.sum()) < int(trace.dense_macs.sum())
        full = model(*clips, repeat=trace.decisions.skip_nothing()).trace
    assert torch.equal(full.macs, full.dense_macs)


def test_early_exits_move_what_they_read_by_a_share_of_their_gradient(tmp_path: Path) -> None:
    gradients = []
    for share in (1.0, 0.1):
        model, clips = make(tmp_path, f"model.exits.gradient={share}", "model.exits.drop=0")
        at = model.train().at_exits(*clips)
        at.log_probs[:, 1, 0].sum().backward()  # of the exits inside and behind the stem
        gradients.append(next(model.stem.parameters()).grad)
        assert all(one.grad is None or not one.grad.any() for one in model.encoder.parameters())
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0])


def test_the_loss_of_exits_teaches_each_by_the_label_and_by_the_last(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, tmp_path, *SIZE, "model.exits.drop=0", "model.exits.weight=0.5")
    model = build_model(cfg, num_classes=3).train()
    batch = make_batch(4, SAMPLES)
    output = model(batch.waveform, batch.lengths)
    assert output.exits is not None
    torch.testing.assert_close(output.logits, output.exits.log_probs[:, -1])
    expected = 0.0
    for said in output.exits.log_probs.unbind(dim=1)[:-1]:
        last = output.logits.detach()
        expected += 0.5 * (F.cross_entropy(said, batch.labels) + (last.exp() * (last - said)).sum(1).mean()) / 2

    def losses(here: Any) -> Tensor:
        return F.cross_entropy(here.logits, batch.labels, reduction="none")

    def distance(here: Any, teacher: Any) -> Tensor:
        return F.kl_div(here.logits, teacher.logits.detach(), reduction="batchmean", log_target=True)

    torch.testing.assert_close(exit_losses(output, 0.5, losses, distance), expected)


def test_a_learned_rule_learns_whether_the_last_exit_agrees_and_moves_nothing_else(tmp_path: Path) -> None:
    model, clips = make(tmp_path, "model.exits.rule=learned", "model.exits.drop=0")
    output = model.train()(*clips)
    assert output.exits is not None
    assert output.exits.rules is not None
    loss = exit_losses(output, 0.0, lambda here: here.logits[:, 0] * 0, lambda here, _: here.logits.sum() * 0)
    torch.as_tensor(loss).backward()
    moved = {name for name, one in model.named_parameters() if one.grad is not None and bool(one.grad.ne(0).any())}
    assert moved
    assert all(name.startswith("exits.rules.") for name in moved)


def test_temperatures_undo_what_sharpened_the_answers() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 5)
    labels = torch.distributions.Categorical(logits=logits).sample()
    said = torch.stack([(logits * sharper).log_softmax(dim=-1) for sharper in (0.5, 1.0, 3.0)], dim=1)
    assert fit_temperatures(said, labels).tolist() == pytest.approx([0.5, 1.0, 3.0], rel=0.1)
    always_right = torch.zeros(10, 1, 2).log_softmax(dim=-1) + torch.tensor([0.0, -9.0])
    assert 0.1 < float(fit_temperatures(always_right, torch.zeros(10, dtype=torch.long))) < 1


def test_thresholds_meet_the_target_and_pass_by_an_exit_that_is_sure_and_wrong() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(400)  # of a clip
    first = 3 - 6 * hard + 0.3 * rng.standard_normal(400)
    scores = np.stack([first, rng.standard_normal(400) + 4], axis=1)  # the second exit knows nothing, and is sure
    wrong = np.stack([0.8 * hard, np.full(400, 0.7), 0.2 * hard], axis=1)
    macs = np.broadcast_to([0.1, 0.2, 1.0], (400, 3))
    thresholds = fit_thresholds(scores, wrong, macs, 0.5)
    exits = leaving(scores, thresholds, 0.0)
    common = min((abs(macs[0, leaving(scores, np.full(2, t), 0.0)].mean() - 0.5), t) for t in np.linspace(-9, 9, 999))[
        1
    ]
    rows = np.arange(400)
    assert macs[rows, exits].mean() == pytest.approx(0.5, abs=0.01)
    assert macs[rows, exits].mean() <= 0.5
    assert wrong[rows, exits].mean() < wrong[rows, leaving(scores, np.full(2, common), 0.0)].mean() - 0.05


def test_what_is_fitted_brings_validation_clips_to_the_target_at_a_bias_of_0(tmp_path: Path) -> None:
    model, _ = make(tmp_path)
    batches = [make_batch(16, SAMPLES), make_batch(8, SAMPLES)]
    model.decision_bias.fill_(1.0)
    fit_exits(model, batches, 0.6)
    assert float(model.decision_bias) == 0
    with torch.no_grad():
        traces = [model(batch.waveform, batch.lengths).trace for batch in batches]
    fraction = sum(int(t.macs.sum()) for t in traces) / sum(int(t.dense_macs.sum()) for t in traces)
    assert fraction == pytest.approx(0.6, abs=0.04)  # of 24 clips
    assert hear(model, batches).labels.tolist() == [*batches[0].labels.tolist(), *batches[1].labels.tolist()]


def test_training_fits_the_exits_before_it_validates(tones: Path, tmp_path: Path) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=early_exit"))
    fit(tiny_config(tones, tmp_path, "model=early_exit"), built=(task, data))
    assert isinstance(task.model, EarlyExit)
    assert task.model.exits.temperatures.ne(1).all()
    assert task.calibration is not None
    assert task.steps["train"][-1].output.exits is None, "or every step would keep its graph"


def test_a_run_with_exits_loads_and_says_what_it_cost(tones: Path, tmp_path: Path) -> None:
    said = load(write_run(tmp_path, tones, "early_exit"))(str(next((tones / "high").iterdir())))
    assert 0 < said.macs <= said.dense_macs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("task=tag",), r"exits need one label per clip, task=classify; got TagHead\."),
        (("model.open_rate=0.5",), r"exits need layers that run one by one .* got GatedEncoder\."),
        (("+model/parts@model.stage=stage",), r"one of stage and exits must be null"),
        (("model.exits.inside=3",), r"exits\.inside must be at least 0 and below the 3 steps of the stem, got 3\."),
        (("model.exits.every=0",), r"exits\.every must be at least 1 layer, got 0\."),
        (("model.exits.gradient=1.5",), r"exits\.gradient must be a share, 0 to 1 .* got 1\.5\."),
        (("model.exits.rule=doubt",), r"model\.exits\.rule must be one of confidence, learned, got doubt"),
    ],
)
def test_exits_that_cannot_be_are_refused(changes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(tiny_config(tmp_path, tmp_path, "model=early_exit", *changes), num_classes=3)


def test_a_stem_over_time_alone_has_exits_too(tmp_path: Path) -> None:
    model, clips = make(tmp_path, "model.stem_channels=null", "model.pooling=statistics")
    assert model.exits.number == 6
    with torch.no_grad():
        assert torch.isfinite(model(*clips).logits).all()


def test_at_exits_has_rules_only_where_they_are_learned() -> None:
    exits = Exits([4, 4], rule="confidence")
    assert exits.ruled(0, torch.zeros(1, 2), None, torch.zeros(1, 4)) is None
    assert exits.scores(AtExits(torch.zeros(1, 2, 2).log_softmax(dim=-1))).tolist() == [[0.0]]
