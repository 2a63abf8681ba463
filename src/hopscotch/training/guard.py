"""Take no step whose loss or gradient is not finite, and name the clips.

One such step leaves nothing but NaN in the weights. It is not taken: weights, optimizer and thresholds stay as they
are, and training goes on, as far as `patience` allows.
"""

from collections.abc import Sequence

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from hopscotch.data.clips import Clip, some
from hopscotch.types import Step


class Guard:
    """Judge each optimizer step by the loss of its batches and by its gradient, and count those that are not taken."""

    def __init__(self, patience: int) -> None:
        """Fail at `patience` steps in a row that are not taken."""
        self.patience = patience
        self.is_taken = True  # the latest step
        self.num_left_out, self.in_a_row = 0, 0
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []  # of the step: loss, loss of each clip, its index

    def note(self, loss: Tensor, losses: Tensor, indices: Tensor) -> None:
        """Note a batch of the step."""
        self._batches.append((loss.detach(), losses.detach(), indices))

    def judge(self, norm: Tensor | None, step: int, clips: Sequence[Clip], *, by_loss: bool) -> int:
        """Tell by `is_taken` whether the step is finite; `norm` is that of its gradient, None where it is scaled.

        Processes have losses of their own, and agree by the norm alone: there `by_loss` is false. The number of batches
        of the step is returned.

        Raises:
            ValueError: If it is not, and as many before it were not.
        """
        batches, self._batches = self._batches, []
        numbers = [loss for loss, _, _ in batches if by_loss or norm is None] + ([] if norm is None else [norm])
        self.is_taken = bool(torch.stack([number.float() for number in numbers]).isfinite().all())
        if self.is_taken:
            self.in_a_row = 0
            return len(batches)
        self.num_left_out, self.in_a_row = self.num_left_out + 1, self.in_a_row + 1
        values = torch.cat([losses for _, losses, _ in batches]).isfinite()
        indices = torch.cat([indices for _, _, indices in batches]).to(values.device)
        names = [clips[index].name for index in (indices if bool(values.all()) else indices[~values]).tolist()]
        bad = [loss.item() for loss, _, _ in batches if not bool(loss.isfinite())]
        what = f"Step {step} is not finite: its {'loss' if bad else 'gradient'} is {bad[0] if bad else norm}"
        if self.in_a_row >= self.patience:
            raise ValueError(
                f"{what}, and with it {self.in_a_row} steps in a row (trainer.nonfinite_patience); clips: "
                f"{some(names)}. Try a lower optimizer.lr, or trainer.detect_anomaly=true."
            )
        rank_zero_warn(f"{what}. It is not taken; clips: {some(names)}.")
        return len(batches)


def refuse_not_finite(stage: str, steps: Sequence[Step], clips: Sequence[Clip] | None) -> None:
    """Refuse predictions of a validation or test that are not finite, before anything is kept of them.

    Clips are named, or numbered where none are given.
    """
    losses, indices = (torch.cat([getattr(step, name) for step in steps]) for name in ("losses", "indices"))
    if not bool((finite := losses.isfinite()).all()):
        numbers = indices[~finite.to(indices.device)].tolist()
        names = [f"number {number}" if clips is None else clips[number].name for number in numbers]
        raise ValueError(
            f"Predictions must be finite, those of {len(names)} of {len(losses)} {stage} clips are not: {some(names)}. "
            "Try a lower optimizer.lr."
        )
