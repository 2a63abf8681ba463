"""List the items of the benchmark by name, in the order in which they run."""

import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.studies.bench.table import Row

Item = Callable[[int, str], "Iterator[Row]"]  # (rounds, device) -> rows

ITEMS = {  # name -> module and function; imported when it is measured, for --help must not wait for torch
    "strides": "attention:strides",
    "packing": "attention:packing",
    "routes": "jumps:routes",
    "routes_long": "jumps:routes_long",
    "tokens": "jumps:tokens",
    "encoder": "encoder:encoder",
    "compile": "compiled:compiled",
    "clip": "clip:clip",
    "exits": "exits:exits",
    "cascade": "exits:cascade",
    "backbone": "exits:backbone",
    "shipped": "shipped:shipped",
    "allocator": "allocator:allocator",
    "loop": "loop:loop",
    "saving": "saving:saving",
    "start": "supply:start",
    "supply": "supply:supply",
    "decoding": "corpus:decoding",
    "many": "corpus:many",
    "long": "corpus:long",
    "predict": "predicting:predict",
}
ELSEWHERE = ("allocator", "start", "many", "predict", "shipped")  # in other processes or graphs: without autocast


def check_precision(names: Sequence[str]) -> None:
    """List the items that can be measured in bfloat16."""
    if wrong := [name for name in names if name in ELSEWHERE]:
        raise ValueError(f"--bf16 must go without {', '.join(wrong)}: they run in processes that stay in float32.")


def item(name: str) -> Item:
    """Import what measures an item."""
    return pkgutil.resolve_name(f"scripts.studies.bench.{ITEMS[name]}")


def measure(name: str, rounds: int, device: str, *, bf16: bool = False) -> "Iterator[Row]":
    """Measure the rows of an item and add the machine; `bf16` has products in bfloat16 and weights in float32."""
    import torch

    from scripts.studies.bench.machine import device_facts

    if name == "allocator":
        device = "cpu"
    # A cached cast of a weight would outlive the step that changes the weight.
    with torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        for row in item(name)(rounds, device):
            yield replace(row, machine=device_facts(device, bf16=bf16) | row.machine)
