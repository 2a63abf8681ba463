"""Cut a model with exits into graphs, one for each rung from exit to exit, and describe how their answers are joined.

    rung0, rung1, ...    power spectra, or what the rung before has left -> what the next reads, logits, pooled state
    rule0, rule1, ...    facts and pooled state -> log odds that the last exit would say the same; of a learned rule

A rung of widths or of a cascade hears the clip itself; one of layers goes on with the states of the one before. What
the exits so far say together, and whether a clip leaves, is up to the runner.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hopscotch.frontend import LogMel
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.exits import FACTS
from hopscotch.models.audio_model import Head, Parts
from hopscotch.models.cascade import Cascade
from hopscotch.models.exits import EarlyExit, Ladder
from hopscotch.models.slimmable import Slimmable
from hopscotch.models.stack import Stack
from hopscotch.models.stem import Conv2dStem, Stem
from hopscotch.ship.parts import TIME, Cut, Graph, block_macs, whole
from hopscotch.types import Mask


def cut_ladder(model: Ladder) -> Cut:
    """Cut a model with exits; nothing is traced yet.

    Raises:
        ValueError: If its encoder is none of ours, or stages of a cascade do not hear with the same frames.
    """
    if isinstance(model, EarlyExit):
        rungs, graphs = (
            _climbed(model),
            {f"rung{number}": _climb(model, number) for number in range(model.exits.number)},
        )
    else:
        wholes = _wholes(model)
        rungs = [_rung([], part.stem, list(part.stem.strides), _blocks(part), part.head) for _, part in wholes]
        power = _power(model.frontend)
        outputs = ("logits", "pooled")
        graphs = {
            f"rung{number}": Graph(_Whole(*pair), {"power": power}, outputs) for number, pair in enumerate(wholes)
        }
    exits, last = model.exits, model.exits.number - 1
    for number, rung in enumerate(rungs):
        rung["fixed"] += exits.macs(number)
        rung["weight"] = 1.0 if exits.log_weights is None else exits.log_weights[number].exp().item()
        rung["temperature"] = exits.temperatures[number].item()
        rung["threshold"] = exits.thresholds[number].item() if number < last else None
    for number, net in enumerate(exits.rules or []):
        inputs = {"facts": torch.rand(1, FACTS), "pooled": torch.rand(1, _width(net) - FACTS)}
        graphs[f"rule{number}"] = Graph(_Rule(net), inputs, ("ruled",))
    joined, shown = exits.log_weights is not None, model.strides_at(torch.arange(last + 1)).tolist()
    plan = {
        "stem": {"strides": list(model.stem.strides), "macs": model.stem.macs_each()},
        "around": [0] * 5,
        "head": {"pool": 0, "macs": int(model.head.macs(torch.tensor([1])))},
        "gate": False,
        "spans": None,
        "stages": [],
        "exits": {"rungs": rungs, "learned": exits.rules is not None, "joined": joined, "strides": shown},
    }
    return Cut(graphs, plan)


# What a rung costs.


def _rung(
    before: Sequence[int], stem: Stem, strides: list[int], blocks: list[tuple[BlockSpec, int]], head: nn.Module
) -> dict[str, Any]:
    """Describe the costs of a rung: steps of the stem after those `before`, blocks with their strides, and a head."""
    assert isinstance(head, Head)
    start = len(before)
    return {
        "before": list(before),
        "stem": {"strides": strides, "macs": stem.macs_each()[start : start + len(strides)]},
        "strides": [stride for _, stride in blocks],
        "costs": [block_macs(spec) for spec, _ in blocks],
        "fixed": int(head.macs(torch.tensor([1]))),
    }


def _climbed(model: EarlyExit) -> list[dict[str, Any]]:
    if type(model.encoder) is not Stack:
        raise ValueError(
            f"model.encoder must be one of Hopscotch's to be exported as ONNX, got {type(model.encoder).__name__}."
        )
    encoder, strides, found = model.encoder, list(model.stem.strides), []
    for number, head in enumerate(model.heads):
        is_inside = number < len(model.steps)
        taken = model.steps[number - 1] if is_inside and number else 0 if is_inside else len(strides)
        steps = strides[taken : model.steps[number]] if is_inside else []
        blocks = [(block.spec, 1) for block in model.stem_layers if isinstance(block, TransformerBlock)]
        if number != len(model.steps) - 1:
            blocks = []
        if not is_inside:
            run = encoder.strides[model.layers[number - 1] : model.layers[number]]
            blocks = [(encoder.spec, stride) for stride in run]
        found.append(_rung(strides[:taken], model.stem, steps, blocks, head))
    return found


def _blocks(part: Parts) -> list[tuple[BlockSpec, int]]:
    encoder = part.encoder
    if type(encoder) is not Stack:
        raise ValueError(
            f"model.encoder must be one of Hopscotch's to be exported as ONNX, got {type(encoder).__name__}."
        )
    layers = [(block.spec, 1) for block in part.stem_layers if isinstance(block, TransformerBlock)]
    return layers + [(encoder.spec, stride) for stride in encoder.strides]


def _wholes(model: Ladder) -> list[tuple[LogMel, Parts]]:
    """List front end and other parts of the rungs that hear the clip themselves."""
    if isinstance(model, Slimmable):
        return [(model.frontend, model.alone(number)) for number in range(model.exits.number)]
    assert isinstance(model, Cascade)
    found: list[tuple[LogMel, Parts]] = [(stage.frontend, stage) for stage in model.models]
    if any(type(front) is not LogMel for front, _ in found):
        raise ValueError("frontend must be log_mel in all stages of a cascade to be exported as ONNX.")
    if len({(front.window, front.fft, front.hop) for front, _ in found}) > 1:
        raise ValueError("the stages of a cascade must hear with the same window and hop to be exported as ONNX.")
    return found


def _power(frontend: LogMel) -> Tensor:
    return torch.rand(1, 4 * TIME, frontend.fft // 2 + 1)


def _width(net: nn.Module) -> int:
    first = next(iter(net.children()))
    assert isinstance(first, nn.Linear)
    return first.in_features


# What is traced. Names of arguments are those of the inputs.


def _climb(model: EarlyExit, number: int) -> Graph:
    """Make the graph of a rung; states in a stem over time and mel are images."""
    last, inside = model.exits.number - 1, len(model.steps) - 1  # rungs that end inside the stem leave its states
    is_image = isinstance(model.stem, Conv2dStem)
    left = () if number == last else ("image_y",) if is_image and number < inside else ("y",)
    if number == 0:
        return Graph(_Rung(model, 0), {"power": _power(model.frontend)}, (*left, "logits", "pooled"))
    x: Tensor = torch.randn(1, TIME, model.dim)
    name = "x"
    if number <= inside:
        step = model.steps[number - 1] - 1
        x = torch.randn(1, TIME, model.stem.width(step))
        if isinstance(model.stem, Conv2dStem):
            name, x = "image", x.unflatten(2, (model.stem.widths[step], -1)).transpose(1, 2)
    return Graph(_Rung(model, number), {name: x}, (*left, "logits", "pooled"))


class _Rung(nn.Module):
    """Go from one exit to the next."""

    def __init__(self, model: EarlyExit, number: int) -> None:
        super().__init__()
        self.model, self.number = model, number

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        model, head = self.model, self.model.heads[self.number]
        if self.number == 0:
            mask = whole(x)
            x = model.stem.begin(model.frontend.levelled(x.transpose(1, 2), mask))
        else:
            mask = whole(x if x.ndim == 3 else x[:, 0])
        (x, _), seen = model.climb(self.number, (x, mask.sum(dim=1)))
        pooled = head.pooled(seen, whole(seen))
        said = head.linear(pooled), pooled
        return said if self.number == model.exits.number - 1 else (x, *said)


class _Whole(nn.Module):
    """Hear a clip from its power spectra on, and answer."""

    def __init__(self, frontend: LogMel, part: Parts) -> None:
        super().__init__()
        self.frontend, self.part = frontend, part

    def forward(self, power: Tensor) -> tuple[Tensor, Tensor]:
        mask: Mask = whole(power)
        x, _ = self.part.states(self.frontend.levelled(power.transpose(1, 2), mask), mask.sum(dim=1))
        head = self.part.head
        assert isinstance(head, Head)
        pooled = head.pooled(x, whole(x))
        return head.linear(pooled), pooled


class _Rule(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, facts: Tensor, pooled: Tensor) -> Tensor:
        return self.net(torch.cat([facts, pooled], dim=1)).squeeze(1)
