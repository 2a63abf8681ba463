"""Measure how much of the expected speed-up attention with fewer keys reaches (items `strides` and `packing`)."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hopscotch.compute import attention_macs
from hopscotch.layers.attention import SkipAttention
from hopscotch.layers.stride import LearnedSkip, stride_pattern
from scripts.studies.bench.passes import DIRECTIONS, FORWARD, one_pass
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

LONG = ((8, 500, 256, 4), (4, 1500, 384, 6))  # batch time dim heads
PACKED = ((16, 500, 256, 4), (8, 1500, 384, 6))
STRIDES = (2, 4, 8)
SHARE = 0.80  # of the speed-up that the MACs promise
MAX_STRIDE = 8


def strides(rounds: int, device: str) -> Iterator[Row]:
    """Compare a layer at stride s with itself at stride 1: the share of the expected speed-up."""
    for shape in LONG:
        yield from _strides(*shape, rounds, device)


def _strides(batch: int, time: int, dim: int, heads: int, rounds: int, device: str) -> Iterator[Row]:
    layer = SkipAttention(dim, heads).to(device)
    x = torch.randn(batch, time, dim, device=device)

    def at(stride: int) -> Callable[[Tensor], Tensor]:
        return lambda x: layer(x, strides=stride)

    for direction in DIRECTIONS:
        cases = {str(s): one_pass(layer, at(s), x, direction) for s in (1, *STRIDES)}
        times = interleave(cases, rounds=rounds, device=device)
        for s in STRIDES:
            promised = attention_macs(time, dim, 1) / attention_macs(time, dim, s)
            yield row(
                f"SkipAttention, stride {s}: share of the promised speed-up, {direction}",
                times.ratio("1", str(s)).times(1 / promised),
                (times.median(str(s)), times.median("1")),
                least=SHARE,
                batch=batch,
                time=time,
                dim=dim,
                heads=heads,
                promised=promised,
            )


def packing(rounds: int, device: str) -> Iterator[Row]:
    """Compare strides that differ within a batch with batches of one stride each, and with masks."""
    for shape in PACKED:
        yield from _packing(*shape, rounds, device)


def _packing(batch: int, time: int, dim: int, heads: int, rounds: int, device: str) -> Iterator[Row]:
    torch.manual_seed(0)
    layer = LearnedSkip(dim, heads, MAX_STRIDE).to(device)
    chosen = torch.randint(1, MAX_STRIDE + 1, (batch,)).to(device)
    x = torch.randn(batch, time, dim, device=device)
    own = [(int(s), x[chosen == s]) for s in chosen.unique()]

    def packed(x: Tensor) -> Tensor:
        choice = layer.choose(x)  # its price is paid, its choice is replaced
        return layer.attend(x, None, choice._replace(strides=chosen))

    def apart(_: Tensor) -> Tensor:
        parts = [part.detach().requires_grad_(torch.is_grad_enabled()) for _, part in own]
        return torch.cat([layer.attention(p, strides=s) for (s, _), p in zip(own, parts, strict=True)])

    calls = {
        "packed": packed,
        "apart": apart,
        "masked": lambda x: sdpa_masked(layer.attention, x, chosen),
        "sketched": lambda x: sketch_masked(layer.attention, x, chosen),
    }
    shapes = {"batch": batch, "time": time, "dim": dim, "heads": heads}
    for direction in DIRECTIONS:
        cases = {name: one_pass(layer, call, x, direction) for name, call in calls.items()}
        times = interleave(cases, rounds=rounds, device=device)
        yield row(
            f"LearnedSkip, packed: time / each stride's clips as a batch of their own, {direction}",
            times.ratio("packed", "apart"),
            (times.median("packed"), times.median("apart")),
            most=1.15,
            **shapes,
        )
        for other, words, least in (
            ("masked", "SDPA with a boolean mask", 1.5),
            ("sketched", "the masked form of the original formulation", 3.0),
        ):
            yield row(
                f"LearnedSkip, packed: times faster than {words}, {direction}",
                times.ratio(other, "packed"),
                (times.median("packed"), times.median(other)),
                least=least if direction == FORWARD else None,
                **shapes,
            )


def sdpa_masked(layer: SkipAttention, x: Tensor, strides: Tensor) -> Tensor:
    """Project every key, and hide the unread ones with a mask."""
    keep = stride_pattern(x.shape[1], MAX_STRIDE, x.device)[strides - 1][:, None, None]  # batch 1 1 keys
    key, value = layer.key_value(x).chunk(2, dim=-1)
    heads = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in (layer.query(x), key, value))
    return layer.output(F.scaled_dot_product_attention(*heads, attn_mask=keep).transpose(1, 2).flatten(2))


def sketch_masked(layer: SkipAttention, x: Tensor, strides: Tensor) -> Tensor:
    """Compute the original formulation: a (batch, time, time) mask from a Python loop, a softmax over all scores."""
    batch, time, dim = x.shape
    key, value = layer.key_value(x).chunk(2, dim=-1)
    query, key, value = (
        part.reshape(batch, time, layer.num_heads, -1).transpose(1, 2) for part in (layer.query(x), key, value)
    )
    mask = torch.zeros(batch, time, time, dtype=torch.bool, device=x.device)
    for clip, stride in enumerate(strides):
        for position in range(0, time, int(stride.item())):
            mask[clip, :, position] = True
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    shares = F.softmax(scores.masked_fill(~mask[:, None], float("-inf")), dim=-1)
    return layer.output((shares @ value).transpose(1, 2).reshape(batch, time, dim))
