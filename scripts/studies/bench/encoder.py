"""Compare the dense encoder with PyTorch's own (item `encoder`)."""

from collections.abc import Iterator

import torch
from torch import nn

from hopscotch.layers.block import BlockSpec
from hopscotch.models.stack import Stack
from scripts.studies.bench.passes import DIRECTIONS, TRAINING, one_pass
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

SHAPES = ((16, 100, 192, 3), (8, 500, 256, 4), (4, 1500, 384, 6))  # batch time dim heads
STRIDED = (0.83, 0.70, 0.62)  # bar of stride 4 in training, for each shape
DENSE = 1.03
DEPTH = 2
STRIDE = 4
CONVOLUTION = 7  # positions, conf/model's own: `dense` is held to the bars as it comes, though PyTorch's has none


def encoder(rounds: int, device: str) -> Iterator[Row]:
    """Compare the time with torch.nn.TransformerEncoder of the same size, its evaluation fast path off."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for shape, strided_bar in zip(SHAPES, STRIDED, strict=True):
            yield from _against_peer(*shape, strided_bar, rounds, device)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _against_peer(
    batch: int, time: int, dim: int, heads: int, strided_bar: float, rounds: int, device: str
) -> Iterator[Row]:
    theirs = peer(dim, heads).to(device)
    plain, wide = (BlockSpec(dim, heads, ffn_ratio=4, dropout=0.0, convolution_width=w) for w in (0, CONVOLUTION))
    ours, convolved = Stack(plain, DEPTH).to(device), Stack(wide, DEPTH).to(device)
    strided, both = (Stack(spec, DEPTH, strides=[STRIDE] * DEPTH).to(device) for spec in (plain, wide))
    x = torch.randn(batch, time, dim, device=device)
    lengths = torch.full((batch,), time, device=device)
    shapes = {"batch": batch, "time": time, "dim": dim, "heads": heads, "depth": DEPTH, "ffn_ratio": 4}
    for direction in DIRECTIONS:
        cases = {
            "theirs": one_pass(theirs, theirs, x, direction),
            "ours": one_pass(ours, lambda x: ours(x, lengths)[0], x, direction),
            "strided": one_pass(strided, lambda x: strided(x, lengths)[0], x, direction),
            "convolved": one_pass(convolved, lambda x: convolved(x, lengths)[0], x, direction),
            "both": one_pass(both, lambda x: both(x, lengths)[0], x, direction),
        }
        times = interleave(cases, rounds=rounds, device=device)
        strided_most = strided_bar if direction == TRAINING else None
        beside = f"with a convolution of {CONVOLUTION}"
        for name, words, most in (
            ("ours", "dense", DENSE),
            ("strided", f"stride {STRIDE}", strided_most),
            ("convolved", f"dense, {beside},", DENSE),
            ("both", f"stride {STRIDE}, {beside},", strided_most),
        ):
            yield row(
                f"{words} stack: time / torch.nn.TransformerEncoder, {direction}",
                times.ratio(name, "theirs"),
                (times.median(name), times.median("theirs")),
                most=most,
                **shapes,
            )


def peer(dim: int, heads: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
