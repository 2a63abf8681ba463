"""List the items of the benchmark by name, in the order in which they run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from scripts.studies.bench.allocator import allocator
from scripts.studies.bench.attention import packing, strides
from scripts.studies.bench.clip import clip
from scripts.studies.bench.compiled import compiled
from scripts.studies.bench.encoder import encoder
from scripts.studies.bench.jumps import routes, routes_long, tokens
from scripts.studies.bench.loop import loop
from scripts.studies.bench.machine import device_facts
from scripts.studies.bench.predicting import predict
from scripts.studies.bench.supply import start, supply
from scripts.studies.bench.table import Row

Item = Callable[[int, str], Iterator[Row]]  # (rounds, device) -> rows

ITEMS: dict[str, Item] = {
    "strides": strides,
    "packing": packing,
    "routes": routes,
    "routes_long": routes_long,
    "tokens": tokens,
    "encoder": encoder,
    "compile": compiled,
    "clip": clip,
    "allocator": allocator,
    "loop": loop,
    "start": start,
    "supply": supply,
    "predict": predict,
}


ELSEWHERE = ("allocator", "start", "predict")  # in processes of their own, which autocast does not reach


def check_precision(names: Sequence[str]) -> None:
    """List the items that can be measured in bfloat16."""
    if wrong := [name for name in names if name in ELSEWHERE]:
        raise ValueError(f"--bf16 must go without {', '.join(wrong)}: they run in processes that stay in float32.")


def measure(name: str, rounds: int, device: str, *, bf16: bool = False) -> Iterator[Row]:
    """Measure the rows of an item and add the machine; `bf16` has products in bfloat16 and weights in float32."""
    if name == "allocator":
        device = "cpu"
    # A cached cast of a weight would outlive the step that changes the weight.
    with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        for row in ITEMS[name](rounds, device):
            yield replace(row, machine=device_facts(device, bf16=bf16) | row.machine)
