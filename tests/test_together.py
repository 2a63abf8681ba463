"""Gates of processes that train together measure as one that has all clips; threads stand for processes."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hopscotch.layers.block import BlockSpec
from hopscotch.layers.gate import Gate
from hopscotch.layers.jump import SkipLayer
from hopscotch.layers.together import Together
from hopscotch.types import Decisions, valid_mask

DIM, TIME = 8, 10
LENGTHS = torch.tensor([10, 4, 7, 3, 9])


class Threads(Together):
    """Adds up what two threads have."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier, self.parts, self.number = (
            threading.Barrier(2, timeout=20),
            [torch.zeros(0)] * 2,
            threading.local(),
        )

    def _all(self, x: Tensor) -> list[Tensor]:
        self.parts[self.number.own] = x.detach().clone()
        self.barrier.wait()
        parts = list(self.parts)
        self.barrier.wait()
        return parts

    def added(self, x: Tensor) -> Tensor:
        return torch.stack(self._all(x)).sum(dim=0)

    def joined(self, x: Tensor) -> Tensor:
        return torch.cat(self._all(x))


def run_both(work: Callable[[Any, Tensor], None], both: list[nn.Module], rows: list[Tensor]) -> None:
    """Let `work` run with each module and its clips, in threads of their own."""
    threads = Threads()

    def run(number: int) -> None:
        threads.number.own = number
        for part in both[number].modules():
            if hasattr(part, "together"):
                part.together = threads  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        work(both[number], rows[number])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(run, number) for number in range(2)]:
            done.result()


def check_same(one: nn.Module, both: list[nn.Module]) -> None:
    """Buffers are those of one process, and gradients add up to its; what no process ran has none."""
    for number in range(2):
        for name, value in both[number].named_buffers():
            torch.testing.assert_close(value, one.get_buffer(name), rtol=1e-5, atol=1e-5, msg=f"{number} {name}")
    for name, parameter in one.named_parameters():
        parts = [grad for part in both if (grad := part.get_parameter(name).grad) is not None]
        assert bool(parts) == (parameter.grad is not None), name
        if parameter.grad is not None:
            torch.testing.assert_close(torch.stack(parts).sum(dim=0), parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_gate_measures_over_the_tokens_of_all_processes() -> None:
    torch.manual_seed(0)
    one, x, weights = (
        Gate(DIM, open_rate=0.6, threshold_by="loss").train(),
        torch.randn(5, TIME, DIM),
        torch.rand(5, TIME),
    )
    x = x * torch.linspace(0.2, 2, 5)[:, None, None]
    both: list[nn.Module] = [copy.deepcopy(one) for _ in range(2)]

    def work(gate: Gate, rows: Tensor) -> None:
        for _ in range(2):
            decision = gate(x[rows], valid_mask(LENGTHS[rows], TIME))
            (decision.is_open * weights[rows]).sum().backward()
            gate.update_threshold(1.0)

    work(one, torch.arange(5))
    run_both(work, both, [torch.tensor([0, 1, 4]), torch.tensor([2, 3])])
    check_same(one, both)
    assert one.measured_rate != 0.6
    assert all(grad.abs().max() > 1e-4 for parameter in one.mlp.parameters() if (grad := parameter.grad) is not None)


@pytest.mark.parametrize("visits", [(2, 3), ()])
def test_a_layer_that_no_clip_of_a_process_visits_takes_part_in_its_gate(visits: tuple[int, ...]) -> None:
    """Clips 2 and 3 are those of the second process; with no visit at all the gate stays as it was made."""
    torch.manual_seed(0)
    gate = {"open_rate": 0.5, "threshold_by": "loss"}
    one, x = SkipLayer(DIM, 2, 4, block=BlockSpec(DIM, 2, dropout=0.0), gate=gate).train(), torch.randn(5, TIME, DIM)
    weights = torch.randn(5, TIME, DIM) * valid_mask(LENGTHS, TIME)[:, :, None]
    jumps = torch.tensor([[0 if clip in visits else 1, 0, 0, -1] for clip in range(5)], dtype=torch.int8)
    both: list[nn.Module] = [copy.deepcopy(one) for _ in range(2)]

    def work(block: SkipLayer, rows: Tensor) -> None:
        repeat = Decisions(torch.zeros(len(rows), 4, dtype=torch.long), jumps[rows])
        for _ in range(2):
            y, trace = block.run(x[rows], LENGTHS[rows], repeat=repeat)
            assert trace.visited[:, 1].tolist() == [clip in visits for clip in rows.tolist()]
            ((y * weights[rows]).sum() + trace.expected_compute.sum()).backward()
            block.update_threshold(1.0)

    work(one, torch.arange(5))
    run_both(work, both, [torch.tensor([0, 1, 4]), torch.tensor([2, 3])])
    check_same(one, both)
    assert bool(one.gates[1].is_placed) == bool(visits)
