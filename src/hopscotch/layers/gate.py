"""Open or close each token by a cheap score and a threshold, trained straight through.

    readout = softmax(cos(x, keys) / temperature) @ values
    score   = sigmoid(standardised(Linear(2, 1)[readout ; MLP(x)]) + offset)        open = score > threshold
    backward: d score = d open (identity);  d threshold = - sum d open (while gradients move it)

Scores lie in [0, 1], and the threshold is clamped to the same range. They are standardised by their running mean and
deviation, with the gradient of scores standardised over the batch (that of all processes that train together): so
scores rank tokens, and the threshold decides how many are open. Otherwise scores follow a rising threshold until both
are 1 in float32, and every token stays open.
The score reads x detached: in a trial without, scores ran off to 500, and the model with them.
`update_threshold(loss)`, once after every optimizer step, updates mean and deviation and moves the threshold:

    sign          above the running mean of the loss: down by lr, below: up by lr        (the original formulation)
    proportional  the same, by lr * clamp((loss - mean) / mean, -1, 1)
    target        lr * (open rate - set point): an integral controller; the loss moves the set point
    off           nothing

and every rule but `off` keeps the measured open rate between `rate_floor` and `rate_ceiling`: `sign` alone closes every
gate within an epoch, because the loss falls. Source: mgate and STthreshold of the original formulation.
"""

import math
import warnings
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hopscotch.compute import Count
from hopscotch.layers.checks import check_choice
from hopscotch.layers.pooling import VARIANCE_FLOOR, masked_mean_and_std
from hopscotch.layers.sampling import Decider
from hopscotch.types import Hidden, Mask

Rule = Literal["sign", "proportional", "target", "off"]
ThresholdSource = Literal["gradient", "loss"]
TrainingMode = Literal["full", "packed"]

LOSS_MOMENTUM = 0.98  # running mean of the loss over about 50 steps
MEASURE_MOMENTUM = 0.9  # running means of the open rate, and of the scores' mean and deviation, over about 10 steps
SET_POINT_SPAN = 0.1  # how far the loss may move the set point of rule `target`, as an open rate
SCORE_MARGIN = 1e-6
TEMPERATURE = 0.1  # of a new read-out: selective; the sqrt(dim) of the original formulation makes it uniform


@torch.no_grad()
def _follow(running: Tensor, measured: Tensor) -> None:
    measured = measured.to(running.dtype)
    running.lerp_(torch.where(torch.isfinite(measured), measured, running), 1 - MEASURE_MOMENTUM)


class GateDecision(NamedTuple):
    """Hold the decisions of a gate for a batch."""

    is_open: Float[Tensor, "batch time"]  # 0 or 1, with the score's gradient in training; 0 at padding
    computed: Bool[Tensor, "batch time"]  # tokens to compute: the open ones, in training those explored too
    open_rate: Float[Tensor, " batch"]  # share of the clip's valid tokens


class StraightThrough(torch.autograd.Function):
    """Compare score > threshold, with the identity as gradient of the score, and minus its sum for the threshold."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, threshold: Tensor) -> Tensor:
        ctx.threshold_shape = threshold.shape
        return (score > threshold).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        return grad, -grad.sum().reshape(ctx.threshold_shape)


class Gate(Decider):
    """Decide yes or no for each token.

    Args:
        dim: Width of the tokens.
        num_keys: Prototypes that each token is compared with; the cost per token grows with it.
        hidden_ratio: Hidden width of the score's MLP / `dim`.
        threshold: Score in [0, 1] above which a token is open, at the start.
        threshold_by: "loss" makes the threshold a buffer that only `update_threshold` moves. "gradient" makes it a
            parameter until `update_threshold` is first called. Mean and deviation of the scores are those of the first
            training batch until then.
        rule: How `update_threshold` moves the threshold.
        open_rate: Share of open tokens at the start, and the set point of rule "target".
        rate_floor: Lowest open rate that any rule but "off" allows.
        rate_ceiling: Highest open rate that any rule but "off" allows.
        detach: Read the tokens without sending a gradient back to them.
        training_mode: "full" computes every valid token in training, so that closed ones can learn to open; "packed"
            computes the open ones and a share `explore` of the others. Evaluation is always packed.
        explore: Share, in [0, 1], of the closed tokens that packed training computes.
        layer: Decision layer that reports show the gate at.
    """

    loss_mean: Tensor
    num_updates: Tensor
    measured_rate: Tensor
    measured_mean: Tensor
    measured_deviation: Tensor
    mean: Tensor
    deviation: Tensor
    offset: Tensor
    is_placed: Tensor
    by_loss: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_keys: int = 16,
        hidden_ratio: float = 0.125,
        threshold: float = 0.5,
        threshold_by: ThresholdSource = "gradient",
        rule: Rule = "target",
        open_rate: float = 0.85,
        rate_floor: float = 0.1,
        rate_ceiling: float = 0.98,
        detach: bool = True,
        training_mode: TrainingMode = "full",
        explore: float = 0.05,
        layer: int = 0,
    ) -> None:
        super().__init__()
        check_choice("rule", rule, Rule)
        check_choice("threshold_by", threshold_by, ThresholdSource)
        check_choice("training_mode", training_mode, TrainingMode)
        if not 0 <= rate_floor <= open_rate <= rate_ceiling <= 1:
            raise ValueError(
                "rate_floor, open_rate and rate_ceiling must rise from 0 to 1, "
                f"got {rate_floor}, {open_rate}, {rate_ceiling}."
            )
        hidden = max(1, int(dim * hidden_ratio))
        self.dim, self.num_keys, self.hidden = dim, num_keys, hidden
        self.layer, self.threshold_by = layer, threshold_by
        self.rule, self.open_rate, self.rate_floor, self.rate_ceiling = rule, open_rate, rate_floor, rate_ceiling
        self.detach, self.training_mode, self.explore = detach, training_mode, explore
        self.keys = nn.Parameter(torch.randn(num_keys, dim))
        self.values = nn.Parameter(torch.randn(num_keys, 1))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        self.combine = nn.Linear(2, 1, bias=False)
        if threshold_by == "gradient":
            self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        else:
            self.register_buffer("threshold", torch.tensor(float(threshold)))
        buffers = {
            "by_loss": threshold_by == "loss",
            "loss_mean": 0.0,
            "num_updates": 0,
            "measured_rate": float(open_rate),
            "measured_mean": 0.0,
            "mean": 0.0,
            "measured_deviation": 1.0,
            "deviation": 1.0,
            "offset": 0.0,
            "is_placed": False,
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value))
        self._may_need_place = True  # False, once known, saves a synchronisation with the device

    def extra_repr(self) -> str:
        return f"{self.dim}, rule={self.rule}, open_rate={self.open_rate}, threshold_by={self.threshold_by}"

    def logits(self, x: Hidden, mask: Mask) -> Float[Tensor, "batch time"]:
        """Compute the standardised scores, before the sigmoid."""
        raw = self._raw(x)
        if not self.training:
            return (raw - self.mean) / self.deviation + self.offset
        mean, deviation = self._moments(raw, mask)
        self._measure(raw.detach(), mask, mean.detach(), deviation.detach())
        over_batch = (raw - mean) / deviation  # its gradient cannot shift or stretch all scores alike
        return over_batch + ((raw - self.mean) / self.deviation + self.offset - over_batch).detach()

    def _moments(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and deviation of the scores of a batch, in all processes if they train together."""
        if self.together is None:
            mean, deviation = masked_mean_and_std(raw.reshape(1, -1, 1), mask.reshape(1, -1))[0]
            return mean, deviation
        valid = raw.double() * mask
        count, total, squares = self.together.sum(torch.stack([mask.sum().double(), valid.sum(), valid.square().sum()]))
        mean = total / count
        deviation = (squares / count - mean.square() + VARIANCE_FLOOR).sqrt()
        return mean.to(raw.dtype), deviation.to(raw.dtype)

    def absent(self, x: Hidden) -> Tensor | None:
        """Take part without a clip in what processes that train together measure of theirs.

        Returns a 0 to add to what is trained, as the gradients of scores are measured, too; None where no process has
        clips. `x` is any batch of hidden states.
        """
        if self.together is None or not self.training or self.is_held:
            return None
        raw = self._raw(x[:0])
        mask = torch.zeros_like(raw, dtype=torch.bool)
        mean, deviation = self._moments(raw, mask)
        self._measure(raw.detach(), mask, mean.detach(), deviation.detach())
        self._follow_rate(mask, mask.sum(dim=1))
        return 0.0 * (mean + deviation) if bool(mean.isfinite()) else None

    def _raw(self, x: Hidden) -> Float[Tensor, "batch time"]:
        x = x.detach() if self.detach else x
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
        # Divide after the product: num_keys values per token instead of dim.
        cosine = x @ nn.functional.normalize(self.keys, dim=-1).T / norm
        readout = (cosine * (-self.log_temperature).exp()).softmax(dim=-1) @ self.values
        return self.combine(torch.cat([readout, self.mlp(x)], dim=-1)).squeeze(-1).float()

    def forward(self, x: Hidden, mask: Mask, bias: Tensor | float = 0.0) -> GateDecision:
        """Decide; `bias` > 0 opens more tokens in evaluation (it is added before the sigmoid); training ignores it."""
        if self.training and self.is_held:
            self.measured_rate.fill_(1.0)
            return GateDecision(mask.to(torch.float32), mask, torch.ones_like(x[:, 0, 0], dtype=torch.float32))
        logits = self.logits(x, mask)
        score = torch.sigmoid(logits if self.training else logits + bias)
        is_open: Tensor = StraightThrough.apply(score, self._within_scores()) * mask  # pyright: ignore[reportAssignmentType]
        computed = is_open.detach() > 0
        num_valid = mask.sum(dim=1)
        open_rate = is_open.sum(dim=1) / num_valid
        if self.training:
            self._follow_rate(computed, num_valid)
            computed = self._explored(computed, mask)
        return GateDecision(is_open, computed, open_rate)

    def _follow_rate(self, is_open: Tensor, num_valid: Tensor) -> None:
        counts = torch.stack([is_open.sum(), num_valid.sum()])
        num_open, num_tokens = counts if self.together is None else self.together.added(counts)
        _follow(self.measured_rate, num_open / num_tokens)

    def _within_scores(self) -> Tensor:
        """Clamp a threshold that an optimizer may have moved to 0 or 1, where no bias opens a gate any more."""
        if not isinstance(self.threshold, nn.Parameter):
            return self.threshold
        return self.threshold + (self.threshold.clamp(SCORE_MARGIN, 1 - SCORE_MARGIN) - self.threshold).detach()

    def _explored(self, is_open: Tensor, mask: Tensor) -> Tensor:
        if self.training_mode == "full":
            return mask
        uniform = self.uniform(mask.shape[1])
        uniform = torch.rand(mask.shape, device=mask.device) if uniform is None else uniform
        return is_open | (mask & (uniform < self.explore))

    @torch.no_grad()
    def _measure(self, raw: Tensor, mask: Tensor, mean: Tensor, deviation: Tensor) -> None:
        if self._may_need_place:
            self._place(raw, mask, mean, deviation)
        _follow(self.measured_mean, mean)
        _follow(self.measured_deviation, deviation)

    def _place(self, raw: Tensor, mask: Tensor, mean: Tensor, deviation: Tensor) -> None:
        """Shift the scores of the first training batch so that `open_rate` of the tokens are open."""
        self._may_need_place = False
        if bool(self.is_placed):
            return
        scores = raw[mask] if self.together is None else self.together.joined(raw[mask])
        if len(scores) == 0:  # no process has any
            self._may_need_place = True
            return
        for measured, used, value in (
            (self.measured_mean, self.mean, mean),
            (self.measured_deviation, self.deviation, deviation),
        ):
            measured.copy_(value)
            used.copy_(value)
        threshold = self.threshold.clamp(SCORE_MARGIN, 1 - SCORE_MARGIN).logit()
        self.offset.copy_(threshold - ((scores - mean) / deviation).quantile(1 - self.open_rate))
        self.is_placed.fill_(True)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._may_need_place = True
        self._hand_over(bool(self.by_loss))

    def _hand_over(self, by_loss: bool) -> None:
        """Take the threshold from the optimizer: without a gradient, not even one of 0, no momentum moves it on."""
        if isinstance(self.threshold, nn.Parameter):
            self.threshold.requires_grad_(not by_loss)
            self.threshold.grad = None if by_loss else self.threshold.grad

    @torch.no_grad()
    def update_threshold(self, loss: float | Tensor, lr: float = 0.01) -> None:
        """Move the threshold by the loss of the last step (the head of this module has the rules).

        A tensor stays on its device. In eval mode, and while held open, nothing moves; a non-finite loss moves nothing
        and warns.

        Args:
            loss: Mean task loss of the last optimizer step.
            lr: Largest step of the threshold, in units of the score, which lies in [0, 1].
        """
        if not self.training or self.is_held:
            return
        loss = torch.as_tensor(loss, dtype=self.loss_mean.dtype).detach()
        finite = torch.isfinite(loss)
        if loss.device.type == "cpu" and not finite:
            warnings.warn(f"update_threshold ignored a non-finite loss, {loss.item()}.", stacklevel=2)
            return
        loss, finite = loss.to(self.loss_mean.device), finite.to(self.loss_mean.device)
        loss = torch.where(finite, loss, self.loss_mean)  # on an accelerator: ignored without a synchronisation
        mean = torch.where(self.num_updates == 0, loss, self.loss_mean)
        step = self._limited(self._step(loss, mean, lr), lr) * finite
        # Strictly between 0 and 1, so that the bias of an evaluation can still open and close every gate.
        self.threshold.add_(step).clamp_(SCORE_MARGIN, 1 - SCORE_MARGIN)
        self.mean.copy_(self.measured_mean)
        self.deviation.copy_(self.measured_deviation)
        self.loss_mean.copy_(torch.lerp(loss, mean, LOSS_MOMENTUM))
        self.num_updates.add_(finite)
        self.by_loss.fill_(True)
        self._hand_over(True)

    def _step(self, loss: Tensor, mean: Tensor, lr: float) -> Tensor:
        excess = (loss - mean) / mean.abs().clamp(min=1e-6)
        if self.rule == "sign":
            return -lr * torch.sign(excess)
        if self.rule == "proportional":
            return -lr * excess.clamp(-1, 1)
        if self.rule == "target":
            set_point = self.open_rate + SET_POINT_SPAN * excess.clamp(-1, 1)
            return lr * (self.measured_rate - set_point.clamp(self.rate_floor, self.rate_ceiling))
        return torch.zeros_like(loss)

    def _limited(self, step: Tensor, lr: float) -> Tensor:
        """Move the threshold back where the open rate is outside its limits, whatever the loss says."""
        if self.rule == "off":
            return step
        step = torch.where(self.measured_rate < self.rate_floor, -torch.full_like(step, lr), step)
        return torch.where(self.measured_rate > self.rate_ceiling, torch.full_like(step, lr), step)

    def macs(self, positions: Count) -> Count:
        read = self.dim * self.num_keys + self.num_keys
        return positions * (read + self.dim * self.hidden + self.hidden + 2)
