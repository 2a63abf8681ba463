"""Join what the exits of a model say, and tell when a clip has heard enough.

    log p_l = sum_(i <= l) w_i log p_i / sum_(i <= l) w_i, normalised      w_i learned, i + 1 at first
    a clip leaves at exit l where score_l > threshold_l + bias

Where exits learned nothing from each other (models/cascade.py) nothing is joined, and each speaks for itself.

The score is by default the log odds of the most likely class, log(p / (1 - p)), at the temperature of the exit. Under
`rule="learned"` a small net gives the log odds that the last exit would say the same (it learns that in training). It
reads how far the two most likely classes lie apart, the entropy, whether the exit before said the same, and the state
that the exit has pooled. Temperatures and thresholds are buffers that validation clips choose (training/exits.py).

Sources: exits after Teerapittayanon et al. 2016 (BranchyNet); answers of all exits so far joined as a geometric mean
(Wolczyk et al. 2021, zero time waste); temperatures after Guo et al. 2017.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hopscotch.compute import linear_macs
from hopscotch.types import AtExits

Rule = Literal["confidence", "learned"]
MOST_ODDS = 60.0  # of a score: beyond that single precision says 1
RULE_WIDTH = 16  # of the net of a learned rule
FACTS = 3  # that it reads besides the pooled state


class Joined(NamedTuple):
    """Hold what some exits say together."""

    total: Float[Tensor, "batch classes"]  # weighted sum of their log p
    weight: Float[Tensor, ""]  # sum of their weights
    log_probs: Float[Tensor, "batch classes"]


class Exits(nn.Module):
    """Hold weights, temperatures and thresholds of `len(widths)` exits; `widths` are those of their pooled states.

    `joins` tells whether what an exit says is that of all exits so far.
    """

    temperatures: Tensor
    thresholds: Tensor

    def __init__(self, widths: Sequence[int], *, rule: Rule, joins: bool = True) -> None:
        super().__init__()
        number = len(widths)
        self.log_weights = nn.Parameter(torch.arange(1.0, number + 1).log()) if joins else None
        self.register_buffer("temperatures", torch.ones(number))
        self.register_buffer("thresholds", torch.zeros(number - 1))  # the last exit has none
        self.rules = None
        if rule == "learned":
            nets = [
                (nn.Linear(width + FACTS, RULE_WIDTH), nn.GELU(), nn.Linear(RULE_WIDTH, 1)) for width in widths[:-1]
            ]
            self.rules = nn.ModuleList(nn.Sequential(*net) for net in nets)

    @property
    def number(self) -> int:
        return len(self.temperatures)

    def join(self, number: int, before: "Joined | None", logits: Float[Tensor, "batch classes"]) -> "Joined":
        """Add what an exit says to what those before it have said."""
        own = logits.float().log_softmax(dim=-1)
        if self.log_weights is None:
            return Joined(own, own.new_ones(()), own)
        weight = self.log_weights[number].exp()
        total = weight * own
        if before is not None:
            total, weight = before.total + total, before.weight + weight
        return Joined(total, weight, (total / weight).log_softmax(dim=-1))

    def ruled(
        self,
        number: int,
        log_probs: Float[Tensor, "batch classes"],
        before: "Joined | None",
        pooled: Float[Tensor, "batch features"],
    ) -> Float[Tensor, " batch"] | None:
        """Return the log odds that the last exit would agree; None without a learned rule. No gradient leaves it."""
        if self.rules is None:
            return None
        log_probs = log_probs.detach()
        first, second = log_probs.exp().topk(2, dim=-1).values.unbind(dim=-1)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        same = (
            torch.ones_like(entropy)
            if before is None
            else (before.log_probs.argmax(-1) == log_probs.argmax(-1)).float()
        )
        facts = torch.stack([first - second, entropy, same], dim=1)
        return self.rules[number](torch.cat([facts, pooled.detach().float()], dim=1)).squeeze(1)

    def scores(self, at: AtExits) -> Float[Tensor, "batch earlier"]:
        """Return the score of each exit but the last."""
        if at.rules is not None:
            return at.rules
        return log_odds(self.tempered(at.log_probs)[:, :-1])

    def tempered(self, log_probs: Float[Tensor, "batch exit classes"]) -> Float[Tensor, "batch exit classes"]:
        """Return log p at the temperature of each exit."""
        return (log_probs / self.temperatures[:, None].to(log_probs.device)).log_softmax(dim=-1)

    def leaves(
        self,
        number: int,
        log_probs: Float[Tensor, "batch classes"],
        ruled: Float[Tensor, " batch"] | None,
        bias: Tensor | float,
    ) -> Bool[Tensor, " batch"]:
        """Tell which clips leave by an exit."""
        score = log_odds((log_probs / self.temperatures[number]).log_softmax(dim=-1)) if ruled is None else ruled
        return score - self.thresholds[number] > bias

    def macs(self, number: int) -> int:
        """Count the multiply-accumulates of a learned rule."""
        if self.rules is None or number == self.number - 1:
            return 0
        layers = [part for part in self.rules[number].children() if isinstance(part, nn.Linear)]
        return sum(linear_macs(1, layer.in_features, layer.out_features) for layer in layers)


def log_odds(log_probs: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch"]:
    """Return log(p / (1 - p)) of the most likely class, p being its probability."""
    top, place = log_probs.max(dim=-1, keepdim=True)
    others = log_probs.scatter(-1, place, -torch.inf).logsumexp(dim=-1)
    return (top.squeeze(-1) - others).clamp(-MOST_ODDS, MOST_ODDS)
