"""Layers near the input learn at lower rates, by a constant ratio, under every optimizer and schedule that can."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from hopscotch.training.rates import parameter_groups
from tests.small_models import make_model
from tests.tiny import fit, tiny_config


def shares(model: nn.Module, decay: float, head_rate: float = 1.0) -> dict[str, tuple[float, bool]]:
    """The share of the rate, and whether weights decay, by the name of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["share"], "weight_decay" not in group)
        for group in parameter_groups(model, decay, head_rate)
        for parameter in group["params"]
    }


@pytest.mark.parametrize("model", ["dense", "skip_transformer", "learned_skip", "skip_layer", "learned_skip_gain"])
def test_each_layer_has_a_share_of_the_rate_of_the_next(model: str) -> None:
    net = make_model(model)
    found = shares(net, 0.5)
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained.keys()
    layers = "encoder.block.layers" if model in ("skip_transformer", "skip_layer") else "encoder.blocks"
    for name, (share, decays) in found.items():
        layer = next((number for number in range(5) if name.startswith(f"{layers}.{number}.")), 4)
        assert share == (0.5**5 if name.startswith("stem.") else 0.5 ** (4 - layer)), name
        assert decays == (trained[name].ndim >= 2), name
    assert found["head.linear.weight"] == (1.0, True)


def test_layers_of_two_parts_are_counted_through() -> None:
    found = shares(make_model("jump_attention", attention_depth=2), 0.5)
    assert found["encoder.attention.blocks.1.ffn.0.weight"] == (1.0, True)
    assert found["encoder.jump.block.layers.4.strength.weight"] == (0.25, True)
    assert found["encoder.jump.block.policy.norm.weight"] == (1.0, False)


def test_one_rate_for_all_is_two_groups_in_the_order_of_the_model() -> None:
    model = make_model("dense")
    matrices, rest = parameter_groups(model, 1.0)
    assert [id(one) for one in matrices["params"]] == [id(one) for one in model.parameters() if one.ndim >= 2]
    assert [id(one) for one in rest["params"]] == [id(one) for one in model.parameters() if one.ndim < 2]


@pytest.mark.parametrize("model", ["dense", "early_exit", "slimmable"])
def test_a_head_has_a_rate_of_its_own(model: str) -> None:
    net = make_model(model)
    found, before = shares(net, 0.5, 10.0), shares(net, 0.5)
    answers = [name for name in found if name.startswith(("head.", "early.", "exits."))]
    assert "head.linear.weight" in answers
    assert all(found[name][0] == 10.0 for name in answers)
    assert all(found[name] == before[name] for name in found.keys() - answers)


def test_an_encoder_without_layers_is_told_that_it_has_none() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "encoder": nn.Linear(2, 2)})
    with pytest.warns(UserWarning, match=r"optimizer.layer_decay=0.8 has no effect"):
        parameter_groups(model, 0.8)


class Rates(Callback):
    """Keeps the rates of all groups at every step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, *step: object, **more: object) -> None:
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize("optimizer", ["adamw", "radam", "sgd"])
@pytest.mark.parametrize("scheduler", ["cosine", "plateau"])
def test_rates_keep_their_ratios_through_a_schedule(
    tones: Path, tmp_path: Path, optimizer: str, scheduler: str
) -> None:
    words = ("model=dense", f"optimizer={optimizer}", f"scheduler={scheduler}", "optimizer.layer_decay=0.8")
    cfg, seen = tiny_config(tones, tmp_path, *words, "optimizer.lr=1e-3"), Rates()
    trainer = fit(cfg, seen)
    expected = torch.tensor([0.8**layer for layer in range(4) for _ in range(2)])
    for rates in seen.seen:
        torch.testing.assert_close(torch.tensor(rates), rates[0] * expected)
    assert trainer.optimizers[0].param_groups[0].get("initial_lr", 1e-3) == 1e-3  # that of the last layer and the head


def test_a_schedule_that_sets_one_rate_is_refused(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, "model=dense", "scheduler=one_cycle", "optimizer.layer_decay=0.8")
    with pytest.raises(
        ValueError, match=r"optimizer.layer_decay and optimizer.head_rate must be 1 under OneCycleLR, which sets"
    ):
        fit(cfg)


def test_a_ratio_above_one_is_refused() -> None:
    from hopscotch.config.compose import compose

    with pytest.raises(ValueError, match=r"optimizer.layer_decay must be above 0 and up to 1, got 1.5"):
        compose(["optimizer.layer_decay=1.5"])
