"""Models of conf/model at toy size, clips for them, and hands on their decisions."""

import copy
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hopscotch import build
from hopscotch.frontend import LogMel
from hopscotch.layers.gate import Gate
from hopscotch.layers.policy import JumpPolicy
from hopscotch.layers.sampling import Scheduled
from hopscotch.layers.stride import StrideGate
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.assemble import behind_gate
from hopscotch.models.audio_model import AudioModel, Head
from hopscotch.models.encoder import Encoder
from hopscotch.models.exits import Ladder
from hopscotch.models.heads import DetectionHead
from hopscotch.models.stage0 import Stage0
from hopscotch.models.stem import ConvStem
from tests.tiny import composed

DIM, HEADS, DEPTH = 16, 2, 5
SAMPLE_RATE = 4000
HOP = 40  # samples
SIZE = (
    f"model.dim={DIM}",
    f"model.heads={HEADS}",
    f"model.depth={DEPTH}",
    "model.stem_layers=0",
    "model.open_rate=null",
    "model.ffn_ratio=2",
    "model.dropout=0",
    "model.convolution_width=3",
    "gate.open_rate=0.5",
)


def toy_config(name: str, **changes: Any) -> DictConfig:
    """The configuration of a model; `changes` are of `model`, of `gate`, or else of the encoder's arguments."""
    cfg = copy.deepcopy(composed(f"model={name}", *SIZE))
    for key, value in changes.items():
        path = key if key == "gate" else f"model.{key}" if key in cfg.model else f"model.encoder.{key}"
        OmegaConf.update(cfg, path, value)
    return cfg


def make_encoder(name: str, **changes: Any) -> Encoder:
    """A gate of tokens (`open_rate`) lets in as many as at the end of training."""
    cfg = toy_config(name, **changes)
    encoder = behind_gate(build.make(cfg.model.encoder), cfg.model, cfg.gate)
    if "open_rate" in changes:
        for part in encoder.modules():
            if isinstance(part, Scheduled):
                part.set_progress(1.0)
    return encoder


def make_model(name: str, *, seed: int = 0, spectrogram_augment: nn.Module | None = None, **changes: Any) -> AudioModel:
    torch.manual_seed(seed)
    frontend = LogMel(sample_rate=SAMPLE_RATE, num_mels=8, window_seconds=0.032, hop_seconds=HOP / SAMPLE_RATE)
    return AudioModel(
        name=name,
        frontend=frontend,
        spectrogram_augment=spectrogram_augment,
        encoder=make_encoder(name, **changes),
        dim=DIM,
        stem=ConvStem(frontend.num_mels, DIM, stride=4, dropout=0.0),
        head=partial(Head, num_classes=3, pooling="statistics", dropout=0.0),
    )


def make_clips(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Zero-padded clips of noise that swells and fades, each in its own way."""
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.zeros(len(lengths), max(lengths))
    for clip, length in enumerate(lengths):
        speed, level = (0.5 + clip) * torch.pi / SAMPLE_RATE, 0.1 * 2.0**clip
        swell = torch.sin(torch.arange(length) * speed) ** 2
        waveform[clip, :length] = level * swell * torch.randn(length, generator=generator)
    return waveform, torch.tensor(lengths)


def decide_at_random(model: nn.Module, *inputs: Tensor) -> None:
    """Make deciders whose logits differ from clip to clip by a few nats, and bias the gates; then evaluation."""
    model.train()
    seen: dict[nn.Linear, list[Tensor]] = {layer: [] for layer in last_layers(model)}
    hooks = []
    for layer, outputs in seen.items():
        nn.init.normal_(layer.weight)
        hooks.append(layer.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output)))
    with torch.no_grad():
        model(*inputs)
        for hook in hooks:
            hook.remove()
        for layer, outputs in seen.items():
            logits = torch.cat(outputs)
            layer.bias.sub_(logits.mean(dim=0))
            layer.weight.mul_(3 / logits.std())
            layer.bias.mul_(3 / logits.std())
    model.eval()
    if isinstance(model, Ladder):  # half of the clips that are left leave by each exit
        with torch.no_grad():
            model.exits.thresholds.copy_(halving(model.exits.scores(model.at_exits(*inputs))))


def halving(scores: Tensor) -> Tensor:
    """Thresholds between the scores of clips at each exit, so that no clip passes one, or does not, by rounding."""
    half = len(scores) // 2
    return scores.sort(dim=0).values[max(0, half - 1) : half + 1].mean(dim=0)


@torch.no_grad()
def wake_for(model: AlwaysOn, waveform: Tensor, lengths: Tensor, clip: int) -> None:
    """Draw the last layer of stage 0 until it opens the clip, and not all the others."""
    assert isinstance(model.stage, Stage0)
    last, layer = None, model.stage.output
    layer.bias.zero_()
    while last is None or last[clip] <= last.mean():
        nn.init.normal_(layer.weight)
        last = model(waveform, lengths).stage.amax(dim=1)  # of clips of about one length
    layer.bias.fill_(-float(last.mean()))
    factor = 3 / last.std()
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def last_layers(model: nn.Module) -> list[nn.Linear]:
    """The layers that give the logits of the deciders over clips."""
    policies = [module.output for module in model.modules() if isinstance(module, JumpPolicy)]
    gates = [module.net[-1] for module in model.modules() if isinstance(module, StrideGate)]
    return [layer for layer in (*policies, *gates) if isinstance(layer, nn.Linear)]


def force_actions(policy: JumpPolicy, actions: list[int], certainty: float = 1000.0) -> None:
    """The same action of every clip at layer 0, 1, ...; for policies with logits per layer."""
    with torch.no_grad():
        policy.output.weight.zero_()
        policy.output.bias.zero_()
        for layer, action in enumerate(actions):
            policy.output.bias[layer * policy.num_actions + action] = certainty


def skip_nothing(model: nn.Module) -> None:
    """Stride 1, action 0, all gates open, by the weights of the deciders."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, StrideGate):
                (last,) = last_layers(module)
                last.weight.zero_()
                last.bias.copy_(-1000.0 * torch.arange(module.max_stride))
            if isinstance(module, JumpPolicy):
                force_actions(module, [0] * (module.depth - 1))
            if isinstance(module, Gate):
                module.offset.fill_(1000.0)
                module.is_placed.fill_(True)


def classifier(model: AudioModel) -> nn.Linear:
    """The last layer of a model whose head gives scores of classes."""
    if isinstance(model.head, DetectionHead):
        return model.head.output
    assert isinstance(model.head, Head)
    return model.head.linear
