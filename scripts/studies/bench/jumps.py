"""Measure the seconds that skipped layers and closed tokens save (items `routes`, `routes_long` and `tokens`)."""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from hopscotch.layers.adapter import Adapter
from hopscotch.layers.block import BlockSpec
from hopscotch.layers.gate import Gate
from hopscotch.layers.jump import SkipLayer
from hopscotch.layers.policy import JumpPolicy
from hopscotch.models.stack import Stack
from scripts.studies.bench.passes import DIRECTIONS, FORWARD, one_pass
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

SHORT, LONG = (32, 50, 96, 4), (32, 500, 256, 4)  # batch time dim heads
DEPTH = 6
GOING_ON = (0.0, 0.4, 0.6, 0.75, 0.9, 1.0)  # chance of going on after a layer, from always jumping to never
DECIDED = 1000.0  # logit of the action that is to be taken
TOKENS = (((4, 1500, 384), 1.2), ((16, 100, 192), 1.4))  # batch time dim, bar
OPEN_RATES = (0.75, 0.5, 0.25)


class RandomRoutes(JumpPolicy):
    """Jump at random: continue with a given chance, else over as many layers as allowed; drawn once, then fixed."""

    going_on = 1.0

    def forward(self, summary: Tensor) -> Tensor:
        decided = routes_at_random(len(summary), self.depth - 1, self.num_actions, self.going_on)
        return super().forward(summary) + decided.to(summary.device)


@cache  # drawing is no part of what is timed
def routes_at_random(batch: int, decisions: int, num_actions: int, going_on: float) -> Tensor:
    """Return logits of the actions that are taken."""
    goes_on = torch.rand(batch, decisions, generator=torch.Generator().manual_seed(0)) < going_on
    return DECIDED * torch.nn.functional.one_hot(torch.where(goes_on, 0, num_actions - 1), num_actions)


def routes(rounds: int, device: str) -> Iterator[Row]:
    """Compare the jump block with the dense stack; the bar is 1.15 (f + 0.05) for a visited share f."""
    yield from _routes(*SHORT, rounds, device)


def routes_long(rounds: int, device: str) -> Iterator[Row]:
    """Compare the jump block with the dense stack at time 500, which takes minutes a round on two cores."""
    yield from _routes(*LONG, rounds, device)


def _routes(batch: int, time: int, dim: int, heads: int, rounds: int, device: str) -> Iterator[Row]:
    torch.manual_seed(0)
    spec = BlockSpec(dim, heads, ffn_ratio=4, dropout=0.0, convolution_width=0)
    dense = Stack(spec, DEPTH).to(device)
    block = SkipLayer(dim, heads, DEPTH, inner="transformer", block=spec)
    policy = block.policy = RandomRoutes(2 * dim, DEPTH, max_jump=block.max_jump)
    block = block.to(device)
    x = torch.randn(batch, time, dim, device=device)
    lengths = torch.full((batch,), time, device=device)

    def visited_share(chance: float) -> float:
        policy.going_on = chance
        return float(block.eval().run(x, lengths)[1].visited.float().mean())

    def jump(chance: float) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            policy.going_on = chance
            return block.run(x, lengths)[0]

        return call

    shares = {str(chance): visited_share(chance) for chance in GOING_ON}
    for direction in DIRECTIONS:
        cases = {"dense": one_pass(dense, lambda x: dense(x, lengths)[0], x, direction)}
        cases |= {str(chance): one_pass(block, jump(chance), x, direction) for chance in GOING_ON}
        times = interleave(cases, rounds=rounds, device=device)
        for name, share in shares.items():
            yield row(
                f"skip_transformer, random routes: time / (dense stack's (f + 0.05)), {direction}",
                times.ratio(name, "dense").times(1 / (share + 0.05)),
                (times.median(name), times.median("dense")),
                most=1.15,
                batch=batch,
                time=time,
                dim=dim,
                heads=heads,
                depth=DEPTH,
                f=share,
            )


def tokens(rounds: int, device: str) -> Iterator[Row]:
    """Compare the time of a gated layer in evaluation with what the MACs of its open tokens predict."""
    for (batch, time, dim), most in TOKENS:
        yield from _tokens(batch, time, dim, most, rounds, device)


def _tokens(batch: int, time: int, dim: int, most: float, rounds: int, device: str) -> Iterator[Row]:
    torch.manual_seed(0)
    layer = Adapter(dim, 0, mini_hc=True, expansion=2, dropout=0.0, gate=Gate(dim)).to(device).eval()
    x = torch.randn(batch, time, dim, device=device)
    mask = torch.ones(batch, time, dtype=torch.bool, device=device)
    with torch.no_grad():
        scores = torch.sigmoid(layer.gate.logits(x, mask)).flatten().sort().values
    thresholds = {rate: scores[-int(rate * len(scores)) - 1] for rate in OPEN_RATES} | {1.0: scores[0] - 1}

    def gated(rate: float) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            layer.gate.threshold.data.copy_(thresholds[rate])
            return layer(x, mask, 0.0)[0]

        return call

    def macs(rate: float) -> float:
        return layer.gate.macs(batch * time) + rate * layer.open_macs(batch * time)

    cases = {str(rate): one_pass(layer, gated(rate), x, FORWARD) for rate in (1.0, *OPEN_RATES)}
    times = interleave(cases, rounds=rounds, device=device)
    for rate in OPEN_RATES:
        promised = macs(rate) / macs(1.0)
        yield row(
            f"token gates, {rate:.2f} open: time / what the MACs promise, forward",
            times.ratio(str(rate), "1.0").times(1 / promised),
            (times.median(str(rate)), times.median("1.0")),
            most=most,
            batch=batch,
            time=time,
            dim=dim,
            promised=promised,
        )
