"""Whether the threads of one operation get in each other's way.

OpenMP's threads wait for each other in circles. Where other processes keep the cores busy the one waited for is not
running, and what takes 0.02 ms takes a turn of the scheduler, 12 ms: an epoch of 20 s took 409 s.
"""

import statistics
import time

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_warn

NUM_ELEMENTS = 1 << 17  # enough for torch to share the work out among its threads
NUM_TIMES = 5
CROWDED = 2e-3  # seconds


def seconds_together() -> float:
    """Median time of an operation so small that it takes its threads no time but to find each other."""
    numbers = torch.zeros(NUM_ELEMENTS)
    times = []
    for _ in range(NUM_TIMES):
        begun = time.perf_counter()
        numbers.add_(1.0)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def warn_if_crowded() -> None:
    """Say what helps when other processes keep the cores busy, in which training takes many times longer."""
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return
    seconds = seconds_together()
    if seconds > CROWDED:
        rank_zero_warn(
            f"Other processes keep the cores busy: {num_threads} threads need {1000 * seconds:.0f} ms for what takes "
            "0.02 ms on free cores. Start again with OMP_NUM_THREADS=1 (several runs side by side) or "
            "OMP_WAIT_POLICY=passive (threads sleep while they wait; half as fast on free cores) before the command."
        )
