"""The items of the benchmark, by name, in the order in which they run."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from hopscotch.bench.allocator import allocator
from hopscotch.bench.attention import packing, strides
from hopscotch.bench.clip import clip
from hopscotch.bench.compiled import compiled
from hopscotch.bench.encoder import encoder
from hopscotch.bench.jumps import routes, routes_long, tokens
from hopscotch.bench.loop import loop
from hopscotch.bench.machine import device_facts
from hopscotch.bench.predicting import predict
from hopscotch.bench.supply import start, supply
from hopscotch.bench.table import Row

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


def measure(name: str, rounds: int, device: str, *, bf16: bool = False) -> Iterator[Row]:
    """The rows of an item, with what they were measured on. `bf16`: products in bfloat16, weights in float32."""
    # Cached casts of weights would outlive the graph of a round.
    with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        for row in ITEMS[name](rounds, device):
            yield replace(row, machine=device_facts(device, bf16=bf16) | row.machine)
