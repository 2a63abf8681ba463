"""Many files shared out among processes, a core each: small models leave little to threads."""

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

MOST = 1024  # files of a share: there are many to choose batches of like length from
MAX_BYTES = 2**24  # of a share of more than one file: who waits for long recordings sees progress

Result = TypeVar("Result")


def shares_of(files: Sequence[Path], num_workers: int) -> Iterator[list[Path]]:
    """The files in order, at least two shares for every worker. A file that is not there counts nothing."""
    most = min(MOST, math.ceil(len(files) / (2 * num_workers)))
    share: list[Path] = []
    num_bytes = 0
    for file in files:
        size = file.stat().st_size if file.is_file() else 0
        if share and (len(share) == most or num_bytes + size > MAX_BYTES):
            yield share
            share, num_bytes = [], 0
        share.append(file)
        num_bytes += size
    if share:
        yield share


class _Shares(Dataset[list[Result]], Generic[Result]):
    def __init__(self, work: Callable[[list[Path]], list[Result]], shares: list[list[Path]]) -> None:
        self.work, self.shares = work, shares

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, index: int) -> list[Result]:
        return self.work(self.shares[index])


def _start(_: int) -> None:
    gc.freeze()  # or the first look for garbage copies all that the worker shares with the process it came from


def side_by_side(
    work: Callable[[list[Path]], list[Result]], files: Sequence[Path], num_workers: int
) -> Iterator[list[Result]]:
    """What `work` makes of each share, in their order; `num_workers` processes, each with one thread."""
    loader = DataLoader(
        _Shares(work, list(shares_of(files, num_workers))),
        batch_size=None,
        collate_fn=list,
        num_workers=num_workers,
        worker_init_fn=_start,
        generator=torch.Generator(),  # its own: a loader draws a number that nobody here uses
    )
    yield from loader
