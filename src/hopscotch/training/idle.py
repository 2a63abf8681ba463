"""Find layers that no clip runs any more: their weights are loaded and shipped for nothing."""

from collections.abc import Sequence

import torch

from hopscotch.types import Step


def idle_layers(steps: Sequence[Step], clips: str) -> list[str]:
    """Name the layers, by number from 0, that no clip of some steps of an evaluation runs; `clips` are their split."""
    if not steps:
        return []
    is_run = torch.stack([step.output.trace.visited.any(dim=0) for step in steps]).any(dim=0).tolist()
    idle = [str(layer) for layer, one in enumerate(is_run) if not one]
    if not idle or not any(is_run):
        return []
    return [
        f"idle layers: {', '.join(idle)} of 0 to {len(is_run) - 1} run for none of the {clips} clips, and are dead "
        "weight. A smaller model.depth will do, or a higher compute.target."
    ]
