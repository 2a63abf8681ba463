"""Learn the cost of decisions: regress it, clip by clip, on the model as it is.

    cost(decisions) = loss under these decisions - loss of the dense run,   of the same clip

Both runs are deterministic and of the same clip, so that every other difference between clips cancels out. These other
differences are far larger: a regression of the loss itself, trained with the model, found nothing (docs/tried.md). The
fitted net reads what the model plans its decisions from; the rest of the model does not change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hopscotch.models.audio_model import AudioModel
from hopscotch.models.encoder import Planner
from hopscotch.training.calibration import MAX_BIAS
from hopscotch.types import AudioBatch, Decisions, ModelOutput, SkipTrace, key_bits

NUM_DRAWS = 4  # random decisions per clip
NUM_STEPS = 1000
ROWS = 512  # per step
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
JITTER = 0.1  # noise on the net's input, in standard deviations: there are few clips


def fit_gains(
    model: AudioModel,
    losses_of: Callable[[ModelOutput, AudioBatch], Float[Tensor, " batch"]],
    batches: Sequence[AudioBatch],
    seed: int,
) -> float:
    """Fit the model's gain net from scratch, and return the share of the costs' variance that it explains."""
    planner = model.planner
    assert planner is not None, f"{model.name} learns no gains"
    generator = torch.Generator().manual_seed(key_bits(seed))
    was_training, bias = model.training, model.decision_bias.clone()
    model.eval()
    model.decision_bias.fill_(math.sinh(MAX_BIAS))  # by its own decisions, the model then skips nothing
    # Lightning validates in inference mode, whose tensors nothing can be fitted to.
    with torch.inference_mode(False):
        with torch.no_grad():
            summaries, decisions, costs = _measure(model, planner, losses_of, batches, generator, bias)
        explained = _fit(planner, summaries, decisions, costs, generator)
    model.decision_bias.copy_(bias)
    model.train(was_training)
    return explained


def _measure(
    model: AudioModel,
    planner: Planner,
    losses_of: Callable[[ModelOutput, AudioBatch], Tensor],
    batches: Sequence[AudioBatch],
    generator: torch.Generator,
    usual: Tensor,
) -> tuple[Tensor, SkipTrace, Tensor]:
    """Return summaries of clips, decisions drawn for them, and what these cost: a row for each draw.

    A gate before the encoder opens the tokens of the `usual` bias, also in the dense run, because plans are made from
    these tokens.
    """
    device = model.decision_bias.device
    summaries, traces, costs = [], [], []
    for batch in batches:
        here = AudioBatch(*(part.to(device) for part in batch))

        def run(repeat: Decisions | None, here: AudioBatch = here) -> tuple[ModelOutput, Tensor]:
            output = model(here.waveform, here.lengths, repeat=repeat)
            return output, losses_of(output, here)

        output, dense = run(None)
        planned = output.trace
        if planned.tokens is not None:
            highest = model.decision_bias.clone()
            model.decision_bias.copy_(usual)
            planned = replace(planned, decisions=replace(planned.decisions, tokens=run(None)[0].trace.tokens))
            model.decision_bias.copy_(highest)
            output, dense = run(planned.decisions)
        for _ in range(NUM_DRAWS):
            output, losses = run(planner.random_decisions(planned, generator))
            assert output.trace.summary is not None
            summaries.append(output.trace.summary)
            traces.append(output.trace)
            costs.append(losses - dense)
    return torch.cat(summaries), SkipTrace.kept(traces), torch.cat(costs)


def _fit(planner: Planner, summaries: Tensor, traces: SkipTrace, costs: Tensor, generator: torch.Generator) -> float:
    net = planner.gain_net
    assert net is not None
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            _reset(module, generator)
    spread = summaries.std(dim=0)
    optimizer = torch.optim.AdamW(net.requires_grad_(True).parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    with torch.enable_grad():
        for _ in range(NUM_STEPS):
            rows = torch.randint(len(costs), (ROWS,), generator=generator)
            noise = JITTER * torch.randn(ROWS, summaries.shape[1], generator=generator).to(summaries.device)
            here = rows.to(summaries.device)
            predicted = planner.predicted_cost(summaries[here] + noise * spread, traces[rows])
            loss = F.smooth_l1_loss(predicted, costs[here])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.requires_grad_(False)
    with torch.no_grad():
        left = costs - planner.predicted_cost(summaries, traces)
    return 1.0 - (left.var() / costs.var()).item()


@torch.no_grad()
def _reset(module: nn.Linear | nn.LayerNorm, generator: torch.Generator) -> None:
    """Draw new weights, so that a fit depends on the model alone, not on earlier fits."""
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
        return
    bound = module.in_features**-0.5
    for parameter in module.parameters():
        drawn = torch.rand(parameter.shape, generator=generator)
        parameter.copy_(bound * (2 * drawn - 1))
