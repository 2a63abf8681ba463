"""A clip's decisions draw by its key, the step and the place alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import Tensor

from hopscotch.build import build_model
from hopscotch.layers.gate import Gate
from hopscotch.layers.noise import PLACES, Draws, Noise
from hopscotch.layers.sampling import draw_floored, draw_of_every_cost, floored
from hopscotch.layers.stride import StrideGate
from hopscotch.models.audio_model import AudioModel
from hopscotch.types import AudioBatch, key_bits
from tests.small_models import make_model
from tests.tiny import CLASS_HZ, make_batch, tiny_config

KEYS = torch.tensor([key_bits(0, 0, index) for index in range(3000)])
DECIDING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("learned_skip", {}),
    ("learned_skip", {"gate_input": "encoder", "estimator": "reinforce"}),
    ("learned_skip", {"gate_input": "encoder", "estimator": "gain"}),
    ("skip_transformer", {}),
    ("skip_transformer", {"policy": {"sees": "state"}}),
    ("skip_transformer", {"policy": {"estimator": "reinforce"}}),
    ("skip_transformer", {"policy": {"estimator": "gain"}}),
    ("skip_layer", {"gate": {"training_mode": "packed"}}),
    ("dense", {"drop": 0.9}),
    ("dense", {"open_rate": 0.5}),
    ("learned_skip", {"open_rate": 0.5}),
)


class Part(Draws):
    def __init__(self, num_drawn: int = 0) -> None:
        super().__init__()
        self.num_drawn = num_drawn


def shared(*parts: Part, step: int = 0) -> Noise:
    noise = Noise()
    noise.give_to(parts)
    noise.begin(step)
    return noise


def numbers(part: Part, count: int, first: int = 0) -> Tensor:
    drawn = part.uniform(count, first)
    assert drawn is not None
    return drawn


def test_numbers_are_even_and_those_of_neighbours_have_nothing_in_common() -> None:
    """Neighbours are clips, steps, passes, parts and places; correlations are those of chance."""
    first, second = Part(4), Part()
    columns = []
    for step in (7, 8):
        noise = shared(first, second, step=step)
        for _ in range(2):
            with noise.of(KEYS):
                columns += [numbers(first, 4), numbers(second, 4)]
            with noise.of(torch.arange(3000)):  # keys that differ by one
                columns += [numbers(first, 4)]
    table = torch.cat(columns, dim=1)
    assert 0 <= table.min() < 1e-4
    assert 1 - 1e-4 < table.max() < 1
    deviation = 3000**-0.5
    assert (table.mean(dim=0) - 0.5).abs().max() < 4 * deviation * 12**-0.5
    assert (table.var(dim=0) - 1 / 12).abs().max() < 4 * deviation * 180**-0.5
    apart = torch.corrcoef(table.T) - torch.eye(table.shape[1])
    assert apart.abs().max() < 4.5 * deviation, "of 1,128 pairs none is beyond 4.5 deviations"
    neighbours = torch.stack([table[:-1].flatten(), table[1:].flatten()])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 4 * neighbours.shape[1] ** -0.5


def test_a_number_depends_on_its_clip_and_place_alone() -> None:
    few, many = Part(5), Part()
    noise = shared(few, many)
    with noise.of(KEYS[:6]):
        own, long = numbers(few, 5), numbers(many, 40)
        assert torch.equal(numbers(few, 2, first=3), own[:, 3:])
        assert torch.equal(numbers(few, 9)[:, :5], own), "places beyond those of all clips go on"
        with noise.among(torch.tensor([4, 1])):
            assert torch.equal(numbers(few, 5), own[[4, 1]])
            with noise.among(torch.tensor([0, 0]), torch.tensor([1, 2])):
                assert (numbers(few, 5)[0] != numbers(few, 5)[1]).all(), "parts of a clip differ"
        assert torch.equal(numbers(few, 5), own)
    noise.begin(0)
    with noise.of(KEYS[[5, 2]]):
        assert torch.equal(numbers(few, 5), own[[5, 2]])
        assert torch.equal(numbers(many, 30), long[[5, 2], :30])
    assert few.uniform(1) is None, "no clips are known outside of a pass"
    assert PLACES > 2**31


def test_without_keys_a_part_draws_from_the_generator_of_torch() -> None:
    gate, pooled = StrideGate(8, 4).train(), torch.zeros(6, 8)
    torch.manual_seed(3)
    chosen = gate(pooled).strides
    torch.manual_seed(3)
    assert torch.equal((gate.net(pooled) - (-torch.rand(6, 4).log()).log()).argmax(dim=1) + 1, chosen)


def test_choices_are_drawn_as_often_as_their_probabilities_say() -> None:
    uniform = torch.rand(3, 20_000, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([[2.0, 0.0, -9.0]]).expand(20_000, -1)
    shares = torch.bincount(draw_floored(logits, uniform[0]).chosen, minlength=3) / 20_000
    torch.testing.assert_close(shares, floored(logits[:1].softmax(dim=-1))[0], rtol=0, atol=0.015)
    drawn = draw_of_every_cost((20_000, 1), range(1, 4), 0, uniform=uniform.T)[:, 0]
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([3.0, 1, 1, 1]) / 6, rtol=0, atol=0.015)


def passed(model: AudioModel, batch: AudioBatch, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, strides and jumps of a pass of training."""
    with torch.no_grad(), model.begin_step(step).of(batch.keys):
        output = model(batch.waveform, batch.lengths)
    return output.logits, output.trace.strides, output.trace.jumps


def check_that_clips_decide_the_same_in_any_batch(model: AudioModel) -> None:
    model.train().set_progress(1.0)
    for part in model.deciders:
        if isinstance(part, Gate):
            part.explore = 0.5
    batch = make_batch(12)
    model.frontend.measure([batch])
    passed(model, batch, 0)  # places the thresholds of gates by this batch
    together = passed(model, batch, 1)
    rows = torch.tensor([9, 3, 0, 6])  # the shortest clips
    part = AudioBatch(*(column[rows] for column in batch))
    part = part._replace(waveform=part.waveform[:, : int(part.lengths.max())])
    torch.manual_seed(1)
    for alone, whole in zip(passed(model, part, 1), together, strict=True):
        torch.testing.assert_close(alone.float(), whole[rows].float(), rtol=0, atol=1e-4)
    others = [passed(model, part, step)[0] for step in range(2, 8)]
    assert max((other - together[0][rows]).abs().max() for other in others) > 1e-3, "other steps draw anew"


@pytest.mark.parametrize(("name", "changes"), DECIDING)
def test_a_clip_decides_the_same_in_any_batch_of_the_step(name: str, changes: dict[str, Any]) -> None:
    check_that_clips_decide_the_same_in_any_batch(make_model(name, **changes))


@pytest.mark.parametrize(
    "words", ["early_exit model.exits.drop=0.9", "slimmable model.widths.shares=[0.2,0.4,0.7,1.0]"]
)
def test_exits_drop_layers_and_draw_widths_by_clip_and_step(words: str, tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    cfg = tiny_config(
        tmp_path, tmp_path, *f"model={words}".split(), "model.depth=4", "model.dropout=0", "model.stem_channels=null"
    )
    check_that_clips_decide_the_same_in_any_batch(build_model(cfg, len(CLASS_HZ)))
