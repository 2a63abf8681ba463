"""Train exits, and choose their temperatures and thresholds on validation clips.

    loss + weight sum_l (task_l + KL(what all say together || what is said up to l)) / 2        l: all but the last
         + mean over l of the cross-entropy of a learned rule with "the last exit says the same"

Temperatures minimise the cross-entropy of each exit (Guo et al. 2017). Thresholds follow: offsets between them are
searched one after the other, while a common shift keeps the mean compute at the target, so that the model's decision
bias, which is such a shift, asks for other budgets. What counts is the mean probability of what is wrong: unlike a
number of errors it tells a change of few clips from none.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hopscotch.layers.exits import log_odds
from hopscotch.models.exits import Ladder
from hopscotch.types import AtExits, AudioBatch, ModelOutput

MOST_TEMPERATURE = 8.0  # and its inverse the least: an exit that is always right would have none
KEPT = 1e-3  # weight of log(temperature)^2 in the cross-entropy, for the same reason
OFFSETS = (-4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)  # of a threshold, in log odds, that are tried
SWEEPS = 2  # over all thresholds
HALVINGS = 24  # of the range of the common shift


def exit_losses(
    output: ModelOutput, weight: float, losses_of: Callable[[ModelOutput], Tensor], distance: Callable[..., Tensor]
) -> Tensor | float:
    """Compute what early exits add to the loss of a step."""
    assert output.exits is not None, "it is there in training"
    log_probs, rules = output.exits
    total: Tensor | float = 0.0
    for number in range(log_probs.shape[1] - 1):
        here = output._replace(logits=log_probs[:, number])
        total = total + weight * (losses_of(here).mean() + distance(here, output)) / 2
    if rules is not None:
        said = log_probs.detach().argmax(dim=-1)
        total = total + F.binary_cross_entropy_with_logits(rules, (said[:, :-1] == said[:, -1:]).to(rules.dtype))
    return total


class Heard(NamedTuple):
    """Hold what all exits say of clips, on the CPU."""

    at: AtExits
    labels: Int[Tensor, " clip"]
    macs: Int[Tensor, "clip exit"]  # up to each exit
    dense_macs: Int[Tensor, " clip"]


@torch.no_grad()
def hear(model: Ladder, batches: Sequence[AudioBatch]) -> Heard:
    """Run all exits on all clips of batches, in evaluation."""
    was_training, device = model.training, model.decision_bias.device
    model.eval()
    parts = []
    for batch in batches:
        lengths = batch.lengths.to(device)
        at, costs = model.at_exits(batch.waveform.to(device), lengths), model.costs(lengths)
        parts.append((at.log_probs, at.rules, batch.labels, *costs))
    model.train(was_training)
    log_probs, rules, *rest = zip(*parts, strict=True)
    ruled = None if rules[0] is None else torch.cat(rules).cpu()
    return Heard(AtExits(torch.cat(log_probs).cpu(), ruled), *(torch.cat(part).cpu() for part in rest))


def fit_exits(model: Ladder, batches: Sequence[AudioBatch], target: float) -> None:
    """Choose temperatures, and thresholds that bring the mean compute of these clips to the target at a bias of 0."""
    with torch.inference_mode(False):  # Lightning validates in inference mode, whose tensors nothing can be fitted to
        heard = hear(model, batches)
        exits = model.exits
        exits.temperatures.copy_(fit_temperatures(heard.at.log_probs, heard.labels))
        tempered = (heard.at.log_probs / exits.temperatures.cpu()[:, None]).log_softmax(dim=-1)
        scores = heard.at.rules if heard.at.rules is not None else log_odds(tempered[:, :-1])
        wrong = 1 - tempered.exp().gather(2, heard.labels[:, None, None].expand(-1, tempered.shape[1], 1)).squeeze(2)
        macs = heard.macs.double() / heard.dense_macs.double().mean()
        found = fit_thresholds(scores.double().numpy(), wrong.double().numpy(), macs.numpy(), target)
        exits.thresholds.copy_(torch.from_numpy(found))
        model.decision_bias.zero_()


def fit_temperatures(
    log_probs: Float[Tensor, "clip exit classes"], labels: Int[Tensor, " clip"]
) -> Float[Tensor, " exit"]:
    """Return the temperature of each exit that makes the labels most likely."""
    own = log_probs.detach().clone()
    logs = torch.zeros(own.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=50, line_search_fn="strong_wolfe")
    wanted = labels[:, None].expand(-1, own.shape[1])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy((own / logs.exp()[:, None]).flatten(0, 1), wanted.flatten()) + KEPT * (logs**2).mean()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    most = math.log(MOST_TEMPERATURE)
    return logs.detach().clamp(-most, most).exp()


def leaving(
    scores: Float[np.ndarray, "clip earlier"], thresholds: Float[np.ndarray, " earlier"], shift: float
) -> Int[np.ndarray, " clip"]:
    """Return the exit by which each clip leaves."""
    passes: Bool[np.ndarray, "clip earlier"] = scores - thresholds > shift
    return np.where(passes.any(axis=1), passes.argmax(axis=1), scores.shape[1])


def fit_thresholds(
    scores: Float[np.ndarray, "clip earlier"],
    wrong: Float[np.ndarray, "clip exit"],
    macs: Float[np.ndarray, "clip exit"],
    target: float,
) -> Float[np.ndarray, " earlier"]:
    """Choose thresholds for the least mean of `wrong` at a mean of `macs` of at most `target`."""
    rows = np.arange(len(scores))
    ends = float(scores.min()) - 2 * max(OFFSETS), float(scores.max()) + 2 * max(OFFSETS)

    def shifted(offsets: Float[np.ndarray, " earlier"]) -> tuple[float, float]:
        """Return the shift that meets the target, and the mean of `wrong` there."""
        low, high = ends
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            mean = macs[rows, leaving(scores, offsets, middle)].mean()
            low, high = (middle, high) if mean <= target else (low, middle)
        return low, wrong[rows, leaving(scores, offsets, low)].mean()

    offsets = np.zeros(scores.shape[1])
    shift, least = shifted(offsets)
    for _ in range(SWEEPS):
        for place in range(len(offsets)):
            for step in OFFSETS:
                tried = offsets.copy()
                tried[place] = np.clip(tried[place] + step, -max(OFFSETS), max(OFFSETS))
                at, found = shifted(tried)
                if found < least - 1e-9:
                    offsets, shift, least = tried, at, found
    return offsets + shift
