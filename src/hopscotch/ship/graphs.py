"""Cut a model into graphs without control flow, and describe what happens between them.

    stem                 power spectra -> hidden states: mel bands, stem, its layers
    gate                 hidden states, bias -> which positions are open
    stage0, stage1, ...  the parts of the encoder; ship/runner.py says what it does with which
    head                 hidden states -> outputs, scores

A model that is always on has two more, and a stem that begins at the bands:

    bands                power spectra -> mel bands, the level that they are measured by
    hear                 bands, level -> how surely the full model is needed, step by step

A model with exits has others (ship/rungs.py).

A graph gets one clip without padding, of any length, so that no graph needs a mask. A layer whose stride is chosen gets
the places of its keys: one graph, and one copy of its weights, for every stride.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hopscotch.frontend import LogMel
from hopscotch.layers.adapter import Adapter
from hopscotch.layers.block import TransformerBlock
from hopscotch.layers.gate import Gate
from hopscotch.layers.jump import GATE_SHARE, SkipLayer
from hopscotch.layers.pooling import masked_mean, masked_mean_and_std
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel, Head, OutputHead
from hopscotch.models.encoder import Encoder
from hopscotch.models.exits import Ladder
from hopscotch.models.heads import DetectionHead, NumberHead, TagHead
from hopscotch.models.jumps import JumpAttention, JumpStack
from hopscotch.models.stack import Stack
from hopscotch.models.strides import LearnedBlock, LearnedStack
from hopscotch.models.token_gate import GatedEncoder
from hopscotch.ship.parts import TIME, Cut, Graph, Macs, block_macs, whole
from hopscotch.ship.rungs import cut_ladder

# Of answers.
KINDS: dict[type[OutputHead], str] = {Head: "classes", NumberHead: "number", TagHead: "tags", DetectionHead: "events"}


def cut(model: AudioModel) -> Cut:
    """Cut a model; nothing is traced yet.

    Raises:
        ValueError: If its encoder or head is none of ours, which the runner would not know.
    """
    if type(model.head) not in KINDS:
        raise ValueError(f"task must be one of Hopscotch's to be exported as ONNX, got {type(model.head).__name__}.")
    if type(model.frontend) is not LogMel:
        raise ValueError(
            f"frontend must be log_mel to be exported as ONNX, got {type(model.frontend).__name__}: the runner knows "
            "no other."
        )
    if isinstance(model, Ladder):
        return cut_ladder(model)
    encoder, gate = model.encoder, None
    if isinstance(encoder, GatedEncoder):
        encoder, gate = encoder.encoder, encoder.gate
    x, bias = torch.randn(1, TIME, model.dim), torch.tensor(0.0)
    power = torch.rand(1, 4 * TIME, model.frontend.fft // 2 + 1)
    outputs = ("rows", "y") if model.head.pool else ("logits", "y")
    graphs = {"head": Graph(_Head(model), {"x": x}, outputs)}
    around = [block_macs(block.spec) for block in model.stem_layers if isinstance(block, TransformerBlock)]
    if gate is not None:
        graphs["gate"] = Graph(_Gate(gate), {"x": x, "bias": bias})
        around.append(_per_position(gate.macs))
    if isinstance(model, AlwaysOn):
        heard = {"bands": torch.rand(1, 4 * TIME, model.frontend.num_mels), "level": torch.ones(1)}
        graphs["bands"] = Graph(_Bands(model.frontend), {"power": power}, ("bands", "level"))
        graphs["hear"] = Graph(_Hear(model), heard)
        graphs["stem"] = Graph(_SpanStem(model), heard)
    else:
        graphs["stem"] = Graph(_Stem(model), {"power": power})
    stages = []
    for number, part in enumerate(_parts(encoder)):
        parts, stage = _stage(part, x, bias)
        graphs |= {f"stage{number}{name}": graph for name, graph in parts.items()}
        stages.append(stage)
    plan = {
        "stem": {"strides": list(model.stem.strides), "macs": model.stem.macs_each()},
        "around": _sum([_fixed(0), *around]),  # the encoder, for each position of the stem
        "head": {"pool": model.head.pool, "macs": int(model.head.macs(torch.tensor([1])))},  # pool 0: a row for a clip
        "gate": gate is not None,
        "spans": spans_of(model) if isinstance(model, AlwaysOn) else None,
        "stages": stages,
        "exits": None,
    }
    return Cut(graphs, plan)


def spans_of(model: AlwaysOn) -> dict[str, Any]:
    """Describe how spans open, in frames (`unit`, `row`, `reach`), in units, and as costs of a score."""
    units = {name: getattr(model, name) for name in ("ahead", "behind", "context", "longest", "saved")}
    return units | {
        "unit": model.unit,
        "row": model.per_row,
        "reach": model.stage.reach,
        "ceiling": model.ceiling,
        "macs": int(model.stage.macs(torch.tensor([1]))),
        "dim": model.dim,
    }


def _parts(encoder: Encoder) -> list[Encoder]:
    return [encoder.jump, encoder.attention] if isinstance(encoder, JumpAttention) else [encoder]


def _stage(encoder: Encoder, x: Tensor, bias: Tensor) -> tuple[dict[str, Graph], dict[str, Any]]:
    kinds: dict[type, Callable[..., tuple[dict[str, Graph], dict[str, Any]]]] = {
        Stack: _stack,
        JumpStack: _jumps,
        LearnedStack: _strides,
    }
    if type(encoder) not in kinds:
        raise ValueError(
            f"model.encoder must be one of Hopscotch's to be exported as ONNX, got {type(encoder).__name__}."
        )
    return kinds[type(encoder)](encoder, x, bias)


# Costs, as they are counted by those who have them: the polynomials are solved for at a few lengths.


def _fixed(macs: int) -> Macs:
    return [macs, 0, 0, 0, 0]


def _per_position(count: Callable[[int], int]) -> Macs:
    return [count(0), count(1) - count(0), 0, 0, 0]


def _sum(parts: Sequence[Macs]) -> Macs:
    return [sum(column) for column in zip(*parts, strict=True)]


# The parts of the encoders.


def _stack(encoder: Stack, x: Tensor, bias: Tensor) -> tuple[dict[str, Graph], dict[str, Any]]:
    plan = {"kind": "stack", "depth": len(encoder.strides), "strides": encoder.strides}
    return {"": Graph(nn.Sequential(*encoder.blocks), {"x": x})}, plan | {
        "costs": [block_macs(encoder.spec) for _ in encoder.strides]
    }


def _strides(encoder: LearnedStack, x: Tensor, bias: Tensor) -> tuple[dict[str, Graph], dict[str, Any]]:
    graphs, keys = {}, torch.arange(0, TIME, 2)
    for layer, block in enumerate(encoder.blocks):
        assert isinstance(block, TransformerBlock)
        if encoder.gate_input == "layer":
            assert isinstance(block, LearnedBlock)
            graphs[f"_choose{layer}"] = Graph(_Choose(block), {"x": x, "bias": bias}, ("around", "normed", "stride"))
            graphs[f"_layer{layer}"] = Graph(_Chosen(block), {"around": x, "normed": x, "keys": keys})
        else:
            graphs[f"_layer{layer}"] = Graph(_Planned(block), {"x": x, "keys": keys})
    if encoder.gate_input != "layer":
        graphs["_plan"] = Graph(_StridePlan(encoder), {"x": x, "bias": bias}, ("strides",))
    gates = sum(gate.macs() for gate in encoder.stride_gates)
    plan = {"kind": "strides", "depth": len(encoder.blocks), "sees": encoder.gate_input, "fixed": encoder.num_fixed}
    return graphs, plan | {"costs": [_fixed(gates), *(block_macs(encoder.spec) for _ in encoder.blocks)]}


def _jumps(encoder: JumpStack, x: Tensor, bias: Tensor) -> tuple[dict[str, Graph], dict[str, Any]]:
    block = encoder.block
    has_memory, memory = block.mix != "none", torch.zeros(1, block.dim)
    graphs = {"_plan": Graph(_JumpPlan(block), {"x": x, "bias": bias}, ("actions",))}
    for layer, module in enumerate(block.layers):
        if isinstance(module, Adapter):
            graphs[f"_gate{layer}"] = Graph(_Gate(module.gate, GATE_SHARE), {"x": x, "bias": bias})
            graphs[f"_layer{layer}"] = Graph(_Update(module), {"x": x})
        else:
            graphs[f"_layer{layer}"] = Graph(nn.Sequential(module), {"x": x})
    if has_memory:
        graphs["_memory"] = Graph(_Memory(block), {"x": x, "memory": memory}, ("remembered",))
        inputs = {"x": x, "start": x, "memory": memory, "action": torch.tensor([1])}
        graphs["_land"] = Graph(_Land(block), inputs)
    if block.inner == "adapter":
        graphs["_end"] = Graph(_End(block), {"x": x})
    plan = {
        "kind": "jumps",
        "depth": block.depth,
        "sees": block.sees,
        "skips": int(block.policy.rule == "skip"),  # layers by which a jump goes beyond its action
        "stride": int(block.inner == "transformer"),  # 0: without attention
        "memory": block.work_mem.tolist() if has_memory else None,  # null: a jump mixes nothing in
        "gates": block.inner == "adapter",  # tokens in each layer; then an MLP at the end
    }
    return graphs, plan | {"costs": list(_jump_costs(block))}


def _jump_costs(block: SkipLayer) -> Iterator[Macs]:
    """Yield the cost of policy and closing MLP, then that of each layer."""
    yield _per_position(lambda time: int(block.constant_macs(torch.tensor(time))))
    for layer, module in enumerate(block.layers):
        visit = _per_position(lambda time, layer=layer: int(block.layer_macs(layer, torch.tensor(time))))
        if isinstance(module, Adapter):
            yield [*visit[:4], module.open_macs(1)]
        else:
            yield [visit[0], *block_macs(block.spec)[1:]]


# What is traced. Names of arguments are those of the inputs.


class _Stem(nn.Module):
    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.frontend, self.stem, self.layers = model.frontend, model.stem, model.stem_layers

    def forward(self, power: Tensor) -> Tensor:
        mask = whole(power)
        x, _ = self.stem(self.frontend.levelled(power.transpose(1, 2), mask), mask.sum(dim=1))
        for layer in self.layers:
            x = layer(x)
        return x


class _Bands(nn.Module):
    def __init__(self, frontend: LogMel) -> None:
        super().__init__()
        self.frontend = frontend

    def forward(self, power: Tensor) -> tuple[Tensor, Tensor]:
        bands = self.frontend.mel.mel_scale(power.transpose(1, 2)).transpose(1, 2)
        return bands, self.frontend.levels(bands, whole(bands))


class _Hear(nn.Module):
    def __init__(self, model: AlwaysOn) -> None:
        super().__init__()
        self.frontend, self.stage = model.frontend, model.stage

    def forward(self, bands: Tensor, level: Tensor) -> Tensor:
        return self.stage(self.frontend.scaled(bands, level), whole(bands).sum(dim=1))[0]


class _SpanStem(nn.Module):
    def __init__(self, model: AlwaysOn) -> None:
        super().__init__()
        self.frontend, self.stem, self.layers = model.frontend, model.stem, model.stem_layers

    def forward(self, bands: Tensor, level: Tensor) -> Tensor:
        x, _ = self.stem(self.frontend.scaled(bands, level), whole(bands).sum(dim=1))
        for layer in self.layers:
            x = layer(x)
        return x


class _Gate(nn.Module):
    def __init__(self, gate: Gate, share: float = 1.0) -> None:
        super().__init__()
        self.gate, self.share = gate, share

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.gate(x, whole(x), self.share * bias).computed


class _Head(nn.Module):
    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.head = model.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(x, whole(x)).float()
        return logits, self.head.scores(logits)


class _Choose(nn.Module):
    """Compute a layer up to its choice of a stride."""

    def __init__(self, block: LearnedBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        around = self.block.look_around(x, None)
        normed = self.block.attention_norm(around)
        return around, normed, self.block.gate(masked_mean(normed, whole(x)), bias).strides.squeeze(0)


class _Chosen(nn.Module):
    """Compute the rest of a layer once its stride is chosen."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.block = block
        self.attention = block.attention.attention if isinstance(block, LearnedBlock) else block.attention

    def forward(self, around: Tensor, normed: Tensor, keys: Tensor) -> Tensor:
        return self.block.feed_forward(around + self.attention.read(normed, normed.index_select(1, keys)))


class _Planned(nn.Module):
    """Compute a layer whose stride was planned."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.rest = _Chosen(block)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        around = self.rest.block.look_around(x, None)
        return self.rest(around, self.rest.block.attention_norm(around), keys)


class _StridePlan(nn.Module):
    def __init__(self, encoder: LearnedStack) -> None:
        super().__init__()
        self.gates = nn.ModuleList(encoder.stride_gates)
        self.summarise = masked_mean_and_std if encoder.gate_input == "first" else masked_mean
        self.times = len(encoder.blocks) - encoder.num_fixed if encoder.tied else 1

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        summary = self.summarise(x, whole(x))
        return torch.cat([gate(summary, bias).strides for gate in self.gates] * self.times)


class _JumpPlan(nn.Module):
    def __init__(self, block: SkipLayer) -> None:
        super().__init__()
        self.policy = block.policy
        self.summarise = masked_mean if block.sees == "input" else masked_mean_and_std

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        scores = self.policy(self.summarise(x, whole(x)))[0]  # decisions actions
        return (scores - bias * self.policy.shares_skipped).argmax(dim=-1)


class _Update(nn.Module):
    """Compute what an adapter adds to its open tokens."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        return self.adapter.update(x)


class _Memory(nn.Module):
    def __init__(self, block: SkipLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.block.remembered(masked_mean(x, whole(x)), memory)


class _Land(nn.Module):
    def __init__(self, block: SkipLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, start: Tensor, memory: Tensor, action: Tensor) -> Tensor:
        return self.block.landed(x, start, memory, action)


class _End(nn.Module):
    def __init__(self, block: SkipLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block.closed(x)
