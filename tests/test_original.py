"""The original names: every usage line of the original formulation runs, and the layers behind them are ours."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hopscotch import original
from hopscotch.layers.adapter import MiniHyperConnection
from hopscotch.layers.jump import SkipLayer
from hopscotch.original import (
    AudioModel,
    LearnedSkip,
    MiniConnection,
    Skiptensor,
    STthreshold,
    Transformer,
    apply_ste,
    mgate,
    skip_layer,
)

SKETCH = Path(__file__).resolve().parents[2] / "shared" / "sketch"
DIMS, HEAD, LAYER, BATCH, TIME = 16, 4, 6, 3, 20


def clips() -> Tensor:
    return torch.randn(BATCH, TIME, DIMS, generator=torch.Generator().manual_seed(0))


@pytest.mark.skipif(not SKETCH.is_dir(), reason="the original formulation lies beside the checkout")
def test_the_example_of_the_original_formulation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (SKETCH / "skip_layer_mini_hc.md").read_text(encoding="utf-8")
    lines = text[text.index("# Example Usage") :].partition("```")[0].splitlines()
    code = "\n".join(line.strip() for line in lines)
    assert len(re.findall(r"skip_layer\(", code)) == 2
    exec(code, {"torch": torch, "nn": nn, "device": torch.device("cpu"), "skip_layer": skip_layer})
    assert capsys.readouterr().out.count("torch.Size([4, 128, 512])") == 2


@pytest.mark.skipif(not SKETCH.is_dir(), reason="the original formulation lies beside the checkout")
def test_every_class_of_the_original_formulation_has_its_name_here() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SKETCH.glob("*.md"))
    names = {
        *re.findall(r"^class (\w+)\(", text, re.MULTILINE),
        *re.findall(r"^(\w+) = \w+\.apply", text, re.MULTILINE),
    }
    assert len(names) >= 10
    assert names == set(original.__all__)


@pytest.mark.parametrize("mini_hc", [True, False])
def test_skip_layer_is_used_as_the_original_formulation_says(mini_hc: bool) -> None:
    class Processor(nn.Module):
        def __init__(self, dims: int, head: int, layer: int) -> None:
            super().__init__()
            self.jmp = skip_layer(dims, head, layer, mini_hc=mini_hc)

        def forward(self, x: Tensor) -> Tensor:
            x = self.jmp(x)
            return x

    torch.manual_seed(0)
    processor = Processor(DIMS, HEAD, LAYER)
    y = processor(clips())
    loss = y.square().mean()
    loss.backward()
    before = [gate.threshold.item() for gate in processor.jmp.gates]
    processor.jmp.update_threshold(loss=loss.item())
    processor.jmp.update_threshold(loss.item() + 1, 0.05)
    assert y.shape == (BATCH, TIME, DIMS)
    assert [gate.threshold.item() for gate in processor.jmp.gates] != before
    assert len(processor.jmp.logs["jumps"]) == BATCH
    assert all(0 < landed < LAYER for history in processor.jmp.logs["jumps"] for landed in history)


def test_skip_layer_equals_ours_with_the_original_rules() -> None:
    torch.manual_seed(0)
    theirs = skip_layer(DIMS, HEAD, LAYER, mini_hc=True, hc_expansion_rate=3)
    torch.manual_seed(0)
    ours = SkipLayer(
        DIMS,
        HEAD,
        LAYER,
        expansion=3,
        jump_rule="literal",
        jump_max=2,
        jump_mix="literal",
        policy_sees="input",
        policy_tied=True,
        gate={"num_keys": 64, "hidden_ratio": 0.5, "rule": "sign"},
    )
    torch.testing.assert_close(theirs.eval()(clips()), ours.eval()(clips()), atol=1e-6, rtol=0)
    assert theirs.logs == ours.logs


def test_a_mask_stands_for_the_lengths_of_clips() -> None:
    block, lengths = skip_layer(DIMS, HEAD, LAYER).eval(), torch.tensor([20, 7, 13])
    mask = torch.arange(TIME) < lengths[:, None]
    alone = block(clips()[1:2, :7])
    torch.testing.assert_close(block(clips(), mask=mask)[1:2, :7], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="without a gap"):
        block(clips(), mask=~mask)
    with pytest.warns(UserWarning, match="xa has no effect"):
        block(clips(), xa=clips())


def sketched_attention(layer: Skiptensor, x: Tensor, stride: int) -> Tensor:
    """Attend as the original formulation does with one head, where its scale by the width is that of the head."""
    key, value = layer.key_value(x).chunk(2, dim=-1)
    scores = layer.query(x) @ key[:, ::stride].transpose(1, 2) * DIMS**-0.5
    return layer.output(scores.softmax(dim=-1) @ value[:, ::stride])


@pytest.mark.parametrize(("given", "stride"), [({"layer_index": 1}, 3), ({"layer_index": 9}, 1), ({}, 5)])
def test_skiptensor_equals_the_original(given: dict[str, int], stride: int) -> None:
    layer = Skiptensor(DIMS, 1, skip_pattern=5)
    torch.testing.assert_close(layer(clips(), **given), sketched_attention(layer, clips(), stride), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        layer(clips(), 0, skip_pattern=2), sketched_attention(layer, clips(), 2), atol=1e-6, rtol=0
    )


def test_transformers_equal_the_original_with_its_schedule() -> None:
    model = AudioModel(DIMS, 1, layer=5)
    x = clips()
    for block, stride in zip(model.layers, (4, 3, 2, 1, 1), strict=True):
        assert isinstance(block, Transformer)
        x = x + sketched_attention(block.attention, block.attention_norm(x), stride)  # pyright: ignore[reportArgumentType]
        x = x + block.ffn[2](block.ffn[0](block.ffn_norm(x)).relu())
    torch.testing.assert_close(model(clips()), x, atol=1e-5, rtol=0)


def test_a_transformer_takes_the_attention_that_it_is_given() -> None:
    attention = Skiptensor(DIMS, HEAD, skip_pattern=4)
    block = Transformer(DIMS, HEAD, attention)
    assert block.attention is attention
    torch.testing.assert_close(block(clips()), block(clips(), layer_index=0))


def test_learned_skip_equals_the_original_for_the_stride_that_it_chooses() -> None:
    layer = LearnedSkip(DIMS, HEAD, max_skip=6).eval()
    (first, *_), choice = layer(clips()), layer.choose(clips())
    stride = int(choice.strides[0])
    masked = Skiptensor(DIMS, HEAD)
    masked.load_state_dict(layer.attention.state_dict())
    assert layer.gate.max_stride == 6
    torch.testing.assert_close(first, masked(clips(), skip_pattern=stride)[0], atol=1e-6, rtol=0)


def test_straight_through_equals_the_original() -> None:
    score = torch.rand(5, requires_grad=True)
    decision = apply_ste(score, torch.tensor(0.5))
    decision.backward(torch.arange(5.0))  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(decision, (score > 0.5).float())  # pyright: ignore[reportArgumentType]
    assert torch.equal(score.grad, torch.arange(5.0))  # pyright: ignore[reportArgumentType]
    assert STthreshold.apply is not None


def test_mgate_returns_decision_and_score() -> None:
    gate = mgate(DIMS, mem=8, thresh=0.5)
    decision, score = gate(clips())
    assert decision.shape == score.shape == (BATCH, TIME, 1)
    assert torch.equal(decision, (score > gate.threshold).float())
    assert 0 < decision.mean() < 1
    decision.sum().backward()
    assert gate.keys.grad is not None
    assert gate.keys.grad.abs().sum() > 0


def test_mini_connection_equals_the_original_for_one_token() -> None:
    """For more the original multiplies (batch, time) by (batch, time, dim)."""
    layer = MiniConnection(DIMS, expand=3)
    token = clips()[0, 0]
    weight, bias = layer.project.weight, layer.project.bias
    shares = (weight[:3] @ token + bias[:3]).softmax(dim=-1)
    paths = (weight[3:] @ token + bias[3:]).view(3, DIMS)
    expected = sum(share * path for share, path in zip(shares, paths, strict=True)).relu()  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(layer, MiniHyperConnection)
    torch.testing.assert_close(layer(token), expected, atol=1e-6, rtol=0)
    assert math.isfinite(layer(clips()).sum().item())
