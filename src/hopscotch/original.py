"""Use the layers under the names and signatures of the original formulation.

Every class here is one of `hopscotch.layers` with other defaults: what the original formulation wrote down and what it
meant, without what could not run. docs/original_formulation.md lists the differences name by name.

    jmp = skip_layer(dims, head, layer)              # mini_hc=False for plain adapters
    y = jmp(x)                                       # jmp(x, mask=mask) for padded clips
    jmp.update_threshold(loss=loss.item())           # after each step, or never: then gradients move the thresholds
    jmp.logs["jumps"]                                # for each clip the layers that it landed on
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.layers.adapter import MiniHyperConnection
from hopscotch.layers.attention import SkipAttention
from hopscotch.layers.block import BlockSpec, TransformerBlock
from hopscotch.layers.gate import Gate, StraightThrough
from hopscotch.layers.jump import SkipLayer
from hopscotch.layers.stride import LearnedSkip as _LearnedSkip
from hopscotch.types import Hidden, Mask, valid_mask

LONGEST = 4  # stride of the first layer; each layer after it reads one step more densely
GATE_MEMORY = 64  # keys of the gates inside `skip_layer`
MAX_ACTION = 2  # of the policy: its net has three outputs

STthreshold = StraightThroughThreshold = StraightThrough
apply_ste = apply_ste_threshold = StraightThrough.apply


def pattern_of(layer_index: int) -> int:
    """Return the stride of a layer of the original schedule: 4, 3, 2, then 1."""
    return max(1, LONGEST - layer_index)


class Skiptensor(SkipAttention):
    """Attend to every `skip_pattern`-th key.

    Args:
        dims: Width of the hidden states; a multiple of `head`.
        head: Attention heads.
        skip_pattern: Stride where `forward` is given neither a layer nor a pattern.
    """

    def __init__(self, dims: int, head: int, skip_pattern: int = 1) -> None:
        super().__init__(dims, head, stride=skip_pattern)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the original signature
        self, x: Hidden, layer_index: int | None = None, skip_pattern: int | None = None
    ) -> Hidden:
        """Attend with `skip_pattern`, else with the stride of the layer, else with the module's own."""
        if skip_pattern is None and layer_index is not None:
            skip_pattern = pattern_of(layer_index)
        return super().forward(x, strides=skip_pattern)


class Transformer(TransformerBlock):
    """Compute a pre-norm block with `Skiptensor` and a feed-forward layer of the same width with ReLU.

    Args:
        dims: Width of the hidden states; a multiple of `head`.
        head: Attention heads.
        attention: Attention to use; by default a new `Skiptensor`.
    """

    def __init__(self, dims: int, head: int, attention: Skiptensor | None = None) -> None:
        super().__init__(BlockSpec(dims, head, ffn_ratio=1, dropout=0.0, convolution_width=0))
        self.attention = Skiptensor(dims, head) if attention is None else attention
        self.ffn[1] = nn.ReLU()

    def forward(self, x: Hidden, layer_index: int | None = None) -> Hidden:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply the block with the stride of the layer, or with that of its attention."""
        return self.feed_forward(x + self.attention(self.attention_norm(x), layer_index))


class AudioModel(nn.Module):
    """Apply `layer` transformers with strides 4, 3, 2, 1, 1, ...; `hopscotch.models.audio_model` is what trains."""

    def __init__(self, dims: int, head: int, layer: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Transformer(dims, head, Skiptensor(dims, head, skip_pattern=pattern_of(i))) for i in range(layer)
        )

    def forward(self, x: Hidden) -> Hidden:
        for index, layer in enumerate(self.layers):
            x = layer(x, layer_index=index)
        return x


class LearnedSkip(_LearnedSkip):
    """Attend with a stride from 1 to `max_skip` that each clip chooses."""

    def __init__(self, dims: int, head: int, max_skip: int = 8) -> None:
        super().__init__(dims, head, max_skip)


class mgate(Gate):
    """Open or close each token by a score of `mem` keys and an MLP of half the width.

    Args:
        dims: Width of the tokens.
        mem: Keys that each token is compared with.
        thresh: Score in [0, 1] above which a token is open, at the start.
    """

    def __init__(self, dims: int, mem: int = GATE_MEMORY, thresh: float = 0.5) -> None:
        super().__init__(dims, num_keys=mem, hidden_ratio=0.5, threshold=thresh, rule="sign")

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the original signature
        self, x: Hidden
    ) -> tuple[Float[Tensor, "batch time 1"], Float[Tensor, "batch time 1"]]:
        """Return the decision, 1 where a token is open, with the gradient of the score, and the score."""
        score = torch.sigmoid(self.logits(x, torch.ones_like(x[..., 0], dtype=torch.bool)))
        decision: Tensor = StraightThrough.apply(score, self._within_scores())  # pyright: ignore[reportAssignmentType]
        return decision[..., None], score[..., None]


class MiniConnection(MiniHyperConnection):
    """Mix `expand` parallel projections of each token."""

    def __init__(self, dims: int, expand: int = 2) -> None:
        super().__init__(dims, expand)


class skip_layer(SkipLayer):
    """Send every clip on its own route through `layer` adapters, with the rules of the original formulation.

    One policy reads the mean of the input and is used at every layer; action a lands on layer i + a and adds the
    block's input and the memory at full size; gates have 64 keys and move by the sign of the loss.

    Args:
        dims: Width of the hidden states; a multiple of `head`.
        head: Attention heads; the adapters have none.
        layer: Layers, at least 2.
        mini_hc: Add mini hyper-connections to the adapters.
        hc_expansion_rate: Pathways of a mini hyper-connection.
    """

    def __init__(self, dims: int, head: int, layer: int, mini_hc: bool = True, hc_expansion_rate: int = 2) -> None:
        super().__init__(
            dims,
            head,
            layer,
            mini_hc=mini_hc,
            expansion=hc_expansion_rate,
            jump_rule="literal",
            jump_max=MAX_ACTION,
            jump_mix="literal",
            policy_sees="input",
            policy_tied=True,
            gate={"num_keys": GATE_MEMORY, "hidden_ratio": 0.5, "rule": "sign"},
        )

    def forward(self, x: Hidden, xa: Tensor | None = None, mask: Mask | None = None) -> Hidden:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the block; `mask` is True at the frames of a clip, which come before its padding.

        Raises:
            ValueError: If a clip's valid frames have a gap or do not begin at the first one.
        """
        if xa is not None:
            warnings.warn("xa has no effect: the original formulation does not use it either.", stacklevel=2)
        if mask is None:
            return super().forward(x)
        lengths = mask.sum(dim=1)
        if bool((lengths == 0).any()) or not torch.equal(mask, valid_mask(lengths, x.shape[1])):
            raise ValueError("mask must be True from the first frame of each clip to its last, without a gap.")
        return super().forward(x, lengths)


__all__: Sequence[str] = (
    "AudioModel",
    "LearnedSkip",
    "MiniConnection",
    "STthreshold",
    "Skiptensor",
    "StraightThroughThreshold",
    "Transformer",
    "apply_ste",
    "apply_ste_threshold",
    "mgate",
    "skip_layer",
)
