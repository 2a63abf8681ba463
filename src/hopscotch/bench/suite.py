"""The items of the benchmark, by name, in the order in which they run."""

from collections.abc import Callable, Iterator

from hopscotch.bench.allocator import allocator
from hopscotch.bench.attention import packing, strides
from hopscotch.bench.clip import clip
from hopscotch.bench.compiled import compiled
from hopscotch.bench.encoder import encoder
from hopscotch.bench.jumps import routes, routes_long, tokens
from hopscotch.bench.loop import loop
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
