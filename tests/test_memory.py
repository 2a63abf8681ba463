"""What is remembered of clips under frozen layers: it changes nothing that heads learn, and nothing runs twice."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hopscotch.build import build_callbacks, build_model
from hopscotch.models.audio_model import AudioModel, Head, Pooling
from hopscotch.models.memory import GIB, Memory, key_of, read_states
from hopscotch.training.remember import Remember, fingerprint
from hopscotch.types import valid_mask
from tests.small_models import make_clips, make_model
from tests.tiny import TINY_MODEL, build, composed, fit, tiny_config, weights

FROZEN = ("trainer.freeze=[stem,encoder]", "augment=none", "model.dropout=0")


@contextmanager
def counted(model: AudioModel) -> Iterator[list[int]]:
    """Collect the clips of each call of the first layer."""
    calls: list[int] = []
    hook = model.encoder.get_submodule("blocks.0").register_forward_hook(
        lambda _, given, __: calls.append(len(given[0]))
    )
    yield calls
    hook.remove()


@pytest.mark.parametrize("pooling", ["statistics", "maxima", "all"])
def test_a_head_reads_the_same_from_a_summary(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = Head(6, 3, pooling=pooling, dropout=0.0)
    torch.nn.init.normal_(head.norm.weight)  # of both signs: the maximum turns into the minimum
    torch.nn.init.normal_(head.norm.bias)
    x, mask = torch.randn(4, 9, 6), valid_mask(torch.tensor([9, 5, 1, 7]), 9)
    torch.testing.assert_close(head.pooled_of(head.summary(x, mask)), head.pooled(x, mask))


@pytest.mark.parametrize("name", ["early_exit", "dense", "skip_attention"])
def test_heads_learn_the_same_and_layers_run_once(tones: Path, tmp_path: Path, name: str) -> None:
    found, runs, sizes = [], [], []
    for number, has_memory in enumerate((False, True, True)):
        words = (f"model={name}", *FROZEN, "trainer.max_epochs=3", f"data.cache_dir={tmp_path / 'cache'}")
        cfg = tiny_config(tones, tmp_path / str(number), *words)
        built = build(cfg)
        model, data = built[0].model, built[1]
        callbacks = [one for one in build_callbacks(cfg) if has_memory or not isinstance(one, Remember)]
        with counted(model) as calls:
            found.append(weights(fit(cfg, *callbacks, built=built)))
        runs.append(sum(calls))
        sizes.append(len(data.clips["train"]) + len(data.clips["val"]))
        assert model.memory is None, "evaluation runs the whole model"
        assert model.can_remember
    assert runs[1:] == [sizes[0], 0]  # the second has them from the disk
    assert runs[0] >= 3 * sizes[0]
    for later in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(later[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("word", ["augment=default", "augment.mixup=0.3", "trainer.freeze=[stem]"])
def test_nothing_is_remembered_where_clips_or_layers_change(tones: Path, tmp_path: Path, word: str) -> None:
    cfg = tiny_config(tones, tmp_path, "model=early_exit", *FROZEN, word, f"data.cache_dir={tmp_path}")
    fit(cfg, *build_callbacks(cfg))
    assert not (tmp_path / "states").exists()


def test_the_name_of_the_file_depends_on_every_weight(tones: Path, tmp_path: Path) -> None:
    model = build(tiny_config(tones, tmp_path, "model=early_exit", *FROZEN))[0].model
    names = {fingerprint(model)}
    for part in (model.stem, model.encoder):
        *_, last = part.parameters()
        with torch.no_grad():
            last.view(-1)[-1] += 1e-3
        names.add(fingerprint(model))
    assert len(names) == 3
    before = fingerprint(model)
    with torch.no_grad():
        for weights_of in model.head.get_submodule("linear").parameters():
            weights_of.zero_()
    assert fingerprint(model) == before


def test_the_trace_of_what_is_remembered_is_that_of_the_model() -> None:
    model, clips = make_model("skip_attention").eval(), make_clips([3000, 4000, 2500])
    with torch.no_grad():
        output = model(*clips)
        model.memory = Memory(sum(model.summary_sizes), 1.0, None)
        recalled = model(*clips)
    torch.testing.assert_close(recalled.logits, output.logits)
    assert torch.equal(recalled.trace.macs, output.trace.macs)
    assert torch.equal(recalled.trace.dense_macs, output.trace.dense_macs)
    assert torch.equal(recalled.trace.strides, output.trace.strides)
    assert torch.equal(recalled.positions, output.positions)


@pytest.mark.parametrize("name", ["learned_skip", "slimmable", "always_on"])
def test_a_model_that_computes_otherwise_has_no_memory(name: str) -> None:
    assert not build_model(composed(f"model={name}", *TINY_MODEL), 3).can_remember


def doubled(waveform: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([waveform.sum(dim=1), lengths.float()], dim=1)


def test_rows_are_kept_for_the_next_and_joined_with_those_of_another_run(tmp_path: Path) -> None:
    place = tmp_path / "a.states"
    clips, lengths = torch.rand(3, 8), torch.tensor([8, 4, 6])
    first, second = (Memory(2, 1.0, place) for _ in range(2))
    first.recall(clips[:2], lengths[:2], doubled)
    second.recall(clips[2:], lengths[2:], doubled)
    for memory in (first, second):
        memory.save(1.0)
    kept = read_states(place, 2)
    assert set(kept) == {key_of(clip[:length]) for clip, length in zip(clips, lengths, strict=True)}
    assert [path.name for path in tmp_path.iterdir()] == ["a.states"]

    def refuse(*_: Tensor) -> Tensor:
        raise AssertionError("all are known")

    again = Memory(2, 1.0, place).recall(clips, lengths, refuse)
    assert again[:, 1].tolist() == lengths.tolist()


def test_a_file_that_is_damaged_or_of_another_model_counts_as_none(tmp_path: Path) -> None:
    place = tmp_path / "a.states"
    memory = Memory(2, 1.0, place)
    memory.recall(torch.rand(2, 4), torch.tensor([4, 3]), doubled)
    memory.save(1.0)
    assert len(read_states(place, 2)) == 2
    assert read_states(place, 3) == {}
    place.write_bytes(place.read_bytes()[:-5])
    assert read_states(place, 2) == {}


def test_what_is_beyond_the_budget_is_computed_and_not_kept(tmp_path: Path) -> None:
    clips, lengths = torch.rand(3, 8), torch.tensor([8, 8, 8])
    memory = Memory(2, 2 * 8 / GIB, tmp_path / "b.states")  # two rows
    memory.recall(clips[:2], lengths[:2], doubled)
    found = memory.recall(clips, lengths, doubled)
    torch.testing.assert_close(found[:, 0], clips.sum(dim=1))
    assert len(memory.rows) == 2
    (tmp_path / "a.states").write_bytes(bytes(10_000))
    os.utime(tmp_path / "a.states", (0, 0))
    memory.save(5_000 / GIB)  # room for its own file alone
    assert [path.name for path in tmp_path.iterdir()] == ["b.states"]
