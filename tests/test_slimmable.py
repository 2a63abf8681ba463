"""Widths of one set of weights: which channels a narrow model has, what is its own, and which widths a step trains."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hopscotch.build import build_model
from hopscotch.models import slimmable
from hopscotch.models.slimmable import Slimmable, first
from tests.tiny import make_batch, tiny_config

SAMPLES = (1600, 960, 1280)


def make(folder: Path, *changes: str) -> tuple[Slimmable, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    cfg = tiny_config(folder, folder, "model=slimmable", "model.dropout=0", *changes)
    model = build_model(cfg, num_classes=3)
    assert isinstance(model, Slimmable)
    batch = make_batch(3, SAMPLES)
    return model, (batch.waveform, batch.lengths)


def test_the_first_channels_of_each_group_are_taken() -> None:
    weight = torch.arange(24).view(4, 6)
    assert first(weight, (2, 3), (1, 1)).tolist() == [[0, 1, 2], [6, 7, 8]]
    assert first(weight, (2, 2), (2, 1)).tolist() == [[0, 1], [12, 13]]
    assert first(weight, (4, 2), (1, 2)).tolist() == [[0, 3], [6, 9], [12, 15], [18, 21]]


@pytest.mark.parametrize("stem", ["null", "[4,8]"])
def test_a_narrow_width_is_a_narrow_model_with_the_first_channels_of_the_full_one(stem: str, tmp_path: Path) -> None:
    model, clips = make(tmp_path, f"model.stem_channels={stem}")
    half = build_model(
        tiny_config(
            tmp_path, tmp_path, "model=dense", "model.dim=8", "model.heads=1", "model.pooling=all",
            f"model.stem_channels={'null' if stem == 'null' else '[2,4]'}",
        ),
        num_classes=3,
    ).eval()  # fmt: skip
    full, own = model.state_dict(), half.state_dict()
    norms = {name.removeprefix("narrow.1."): value for name, value in full.items() if name.startswith("narrow.1.")}
    groups = {"head.linear.weight": (1, 3), "stem.linear.weight": (1, 10)}
    groups |= {name: (2, 1) for name in own if ".key_value." in name}
    for name, value in own.items():
        if name.partition(".")[0] in ("stem", "encoder", "head"):
            taken = norms.get(name)
            value.copy_(first(full[name], tuple(value.shape), groups.get(name, (1, 1))) if taken is None else taken)
    half.frontend.load_state_dict(model.frontend.state_dict())
    model.eval()
    with torch.no_grad():
        expected = half(*clips).logits
        answer = model.rung(1, model.start(*clips, None))
    torch.testing.assert_close(answer.logits, expected, rtol=0, atol=1e-5)
    costs = model.costs(clips[1])[0]
    assert (costs[:, 1] - costs[:, 0]).tolist() == half(*clips).trace.macs.tolist()


def test_only_normalisations_are_a_widths_own_and_all_widths_move_the_same_weights(tmp_path: Path) -> None:
    model, clips = make(tmp_path)
    dense = build_model(tiny_config(tmp_path, tmp_path, "model=dense", "model.pooling=all"), num_classes=3)
    added = model.state_dict().keys() - dense.state_dict().keys()
    assert all(name.startswith("exits.") or "norm" in name for name in added)
    assert dense.state_dict().keys() <= model.state_dict().keys(), "it can start from a dense model"
    at = model.train().at_exits(*clips)
    at.log_probs[:, 0, 0].sum().backward()
    gradient = model.encoder.blocks[0].attention.query.weight.grad  # pyright: ignore[reportAttributeAccessIssue,reportIndexIssue]
    assert bool(gradient[:4, :4].any())
    assert not bool(gradient[4:].any())
    assert not bool(gradient[:, 4:].any())
    named = dict(model.named_parameters())
    assert all(named[name].grad is not None for name in named if name.startswith("narrow.0."))
    assert all(one.narrow._parameters[one.name] is None for borrowed in model._borrowed for one in borrowed)


def test_narrow_weights_are_cut_once_and_again_where_those_of_the_full_width_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clips = make(tmp_path)
    cut = list[Tensor]()

    def counted(weight: Tensor, *rest: Any) -> Tensor:
        cut.append(weight)
        return first(weight, *rest)

    monkeypatch.setattr(slimmable, "first", counted)

    @torch.no_grad()
    def answer() -> tuple[list[float], bool]:
        before = len(cut)
        said = model.rung(0, model.start(*clips, None)).logits.flatten().tolist()
        return said, len(cut) > before

    model.eval()
    said, _ = answer()
    assert answer() == (said, False)
    query = model.encoder.blocks[0].attention.query  # pyright: ignore[reportAttributeAccessIssue,reportIndexIssue]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        query.weight.mul_(2.0)
    moved, was_cut = answer()
    assert was_cut
    assert moved != said
    model.load_state_dict(weights)
    assert answer() == (said, True)
    query.weight = torch.nn.Parameter(2.0 * query.weight.detach())
    assert answer() == (moved, True)
    query.weight.data = query.weight.data / 2.0
    assert answer() == (said, True)
    model.train().eval()
    assert answer() == (said, True)


def test_a_step_trains_the_narrowest_the_full_and_one_width_between_them(tmp_path: Path) -> None:
    model, clips = make(tmp_path, "model.widths.shares=[0.25,0.5,0.75,1.0]")
    drawn = {tuple(model.train().drawn()) for _ in range(40)}
    assert drawn == {(0, 1, 3), (0, 2, 3)}
    assert model.at_exits(*clips).log_probs.shape[1] == 3
    assert model.eval().at_exits(*clips).log_probs.shape[1] == 4


@pytest.mark.parametrize("shares", ["[1.0]", "[0.5,0.25,1.0]", "[0.0,1.0]", "[0.25,0.5]"])
def test_shares_that_do_not_rise_to_1_are_refused(shares: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"widths\.shares must rise, from above 0 to 1, got \["):
        make(tmp_path, f"model.widths.shares={shares}")


def test_an_encoder_that_decides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"widths need a stack of blocks .* got GatedEncoder\.$"):
        make(tmp_path, "model.open_rate=0.5")
