"""Layers that no clip runs are named by their numbers."""

import torch

from hopscotch.training.idle import idle_layers
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace, Step


def step(visited: list[list[bool]]) -> Step:
    rows = torch.tensor(visited)
    some = torch.zeros(len(rows))
    batch = AudioBatch(some[:, None], some.long(), some.long(), some.long(), some.long())
    trace = SkipTrace.of(rows, some.long() + 1, some.long() + 2)
    return Step(some, ModelOutput(some[:, None], trace, {}, some.long(), some.long()), batch, (some, some), {})


def test_a_layer_that_no_clip_of_any_step_runs_is_named() -> None:
    steps = [step([[True, False, False, False, True]]), step([[True, True, False, False, True]] * 2)]
    (warning,) = idle_layers(steps, "validation")
    assert warning.startswith("idle layers: 2, 3 of 0 to 4 run for none of the validation clips")


def test_nothing_is_said_where_each_layer_has_a_clip_or_nothing_is_known() -> None:
    assert idle_layers([step([[True, False, True]]), step([[True, True, True]])], "validation") == []
    assert idle_layers([step([[False, False]])], "validation") == []
    assert idle_layers([], "validation") == []
