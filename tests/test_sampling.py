"""sampling.py: numbers and order are functions of keys, and a resumed run goes on exactly where it stopped."""

import contextlib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hopscotch.data.clips import Batches, Clip, ClipStore
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.sampling import (
    Position,
    ShuffledBatches,
    SortedBatches,
    batch_sizes,
)
from hopscotch.keyed import keyed_bits, keyed_uniform
from hopscotch.types import AudioBatch, key_bits

MASK = 2**64 - 1
LENGTHS = [100 + 37 * i % 900 for i in range(203)]


def shuffled(seed: int = 0, *, rank: int = 0, num_ranks: int = 1, lengths: list[int] = LENGTHS) -> ShuffledBatches:
    return ShuffledBatches(lengths, 8, seed=seed, position=lambda: Position(0, 0), rank=rank, num_ranks=num_ranks)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(epoch: int, seed: int = 0) -> list[int]:
        return [index for batch in shuffled(seed=seed).batches(epoch) for _, index in batch]

    assert order(3) == order(3) != order(4)
    assert order(3) != order(3, seed=1)


def test_every_clip_comes_once_an_epoch_in_batches_that_differ_by_one_clip() -> None:
    batches = shuffled().batches(2)
    assert sorted(index for batch in batches for _, index in batch) == list(range(203))
    assert {epoch for batch in batches for epoch, _ in batch} == {2}
    assert {len(batch) for batch in batches} == {7, 8}


def test_bucketing_removes_most_of_the_padding_of_a_plain_shuffle() -> None:
    def padding(batches: list[list[int]]) -> float:
        held = sum(LENGTHS[index] for batch in batches for index in batch)
        return sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in batches) / held - 1

    plain = torch.randperm(203, generator=torch.Generator().manual_seed(0)).split(8)
    bucketed = [[index for _, index in batch] for batch in shuffled().batches(0)]
    assert padding(bucketed) < 0.4 * padding([batch.tolist() for batch in plain])


def test_ranks_share_an_epoch_without_overlap_and_take_equally_many_steps() -> None:
    parts = [shuffled(rank=rank, num_ranks=4).batches(0) for rank in range(4)]
    assert {len(part) for part in parts} == {len(shuffled(num_ranks=4))}
    assert sorted(index for part in parts for batch in part for _, index in batch) == list(range(203))


def test_a_rank_without_clips_of_its_own_gets_some_from_the_front() -> None:
    for num_clips in (1, 2, 3):
        parts = [shuffled(rank=rank, num_ranks=3, lengths=LENGTHS[:num_clips]).batches(0) for rank in range(3)]
        assert [len(batch) for part in parts for batch in part] == [1, 1, 1]
        assert {index for part in parts for batch in part for _, index in batch} == set(range(num_clips))


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_evaluation_takes_every_clip_once_shortest_first(num_ranks: int) -> None:
    parts = [list(SortedBatches(LENGTHS, 8, rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    assert {len(part) for part in parts} == {len(SortedBatches(LENGTHS, 8, num_ranks=num_ranks))}
    steps = [batch for step in zip(*parts, strict=True) for batch in step]
    order = [index for batch in steps for _, index in batch]
    assert sorted(order) == list(range(203))
    assert [LENGTHS[index] for index in order] == sorted(LENGTHS)


def test_batch_sizes_are_as_few_as_the_batch_size_allows() -> None:
    assert batch_sizes(2400, 32, 1) == [32] * 75
    assert batch_sizes(10, 4, 1) == [4, 3, 3]
    assert batch_sizes(10, 4, 2) == [3, 3, 2, 2]


class Recorder(LightningModule):
    """One weight, and a note of every batch that moved it: its clips, and their noise keys."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[int], list[int]]] = []

    def training_step(self, batch: AudioBatch, batch_index: int) -> torch.Tensor:
        self.seen.append((batch.indices.tolist(), batch.keys.tolist()))
        return (self.weight - batch.waveform.mean()) ** 2

    def validation_step(self, batch: AudioBatch, batch_index: int) -> None:
        self.log("val", self.weight.detach(), batch_size=len(batch.labels))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kill(Callback):
    """Stands in for a power cut: raises when so many batches have been trained on."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.after:
            raise InterruptedError


CLIPS = [Clip(f"{i}", i // 20, 4 + i) for i in range(23)]  # 6 batches of 4 or fewer


class Counted(AudioDataModule):
    """The same clips in every split, each of them its number over and over."""

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        return ["a", "b"], dict.fromkeys(SPLITS, CLIPS)

    def load(self, clip: Clip) -> torch.Tensor:
        return torch.full((clip.num_samples,), float(clip.name))


def fit(
    folder: Path,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    num_workers: int = 0,
    balance: Literal["classes"] | None = None,
    **options: Any,
) -> Any:
    trainer = Trainer(
        **{"max_epochs": 3, "num_sanity_val_steps": 0, "default_root_dir": folder} | options,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
    )
    module = Recorder()
    with contextlib.suppress(InterruptedError):
        keys: Any = {"sample_rate": 8000, "batch_size": 4, "cache_gib": 1.0, "seed": 0, "augment": None}
        data = Counted(num_workers=num_workers, balance=balance, **keys)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


CHECKPOINTS = {
    "after a step": {"every_n_train_steps": 1},
    "at the end of an epoch": {"save_on_train_epoch_end": True},
    "after validation": {"save_on_train_epoch_end": False, "every_n_epochs": 1},
}


def keeper(folder: Path, kind: str) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False, **CHECKPOINTS[kind])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # resuming in the same folder is meant
@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize(("after", "num_workers"), [(3, 0), (6, 0), (7, 0), (13, 0), (6, 2), (9, 2)])
def test_killed_and_resumed_sees_the_same_batches_in_the_same_order(
    tmp_path: Path, kind: str, after: int, num_workers: int
) -> None:
    straight = fit(tmp_path)
    assert len(straight.seen) == 18
    before = fit(tmp_path, keeper(tmp_path, kind), Kill(after), num_workers=num_workers)
    assert before.seen == straight.seen[:after]
    saved = tmp_path / "last.ckpt"
    assert saved.exists() == (kind == "after a step" or after >= 6)
    if saved.exists():
        num_done = torch.load(saved, weights_only=True)["global_step"]
        assert num_done == (after if kind == "after a step" else after - after % 6)
        resumed = fit(tmp_path, keeper(tmp_path, kind), ckpt_path=saved, num_workers=num_workers)
        assert resumed.seen == straight.seen[num_done:]
        assert torch.equal(resumed.weight, straight.weight)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # resuming in the same folder is meant
@pytest.mark.parametrize("after", [4, 6])
def test_a_limited_epoch_resumes_in_step_too(tmp_path: Path, after: int) -> None:
    straight = fit(tmp_path, limit_train_batches=4)
    fit(tmp_path, keeper(tmp_path, "after a step"), Kill(after), limit_train_batches=4)
    again = keeper(tmp_path, "after a step")
    resumed = fit(tmp_path, again, ckpt_path=tmp_path / "last.ckpt", limit_train_batches=4)
    assert resumed.seen == straight.seen[after:]


def test_overfitting_sees_the_same_batches_and_noise_in_every_epoch(tmp_path: Path) -> None:
    seen = fit(tmp_path, overfit_batches=2).seen
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]


def test_noise_keys_are_functions_of_seed_epoch_and_index(tmp_path: Path) -> None:
    seen = fit(tmp_path, max_epochs=2).seen
    for step, (indices, keys) in enumerate(seen):
        assert keys == [key_bits(0, step // 6, index) for index in indices]


def mix(x: int) -> int:
    """Splitmix64's finaliser with whole numbers, as published."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_bits_equal_the_published_hash() -> None:
    keys = [0, 1, key_bits(3, 4, 5), 2**63 - 1]
    bits = keyed_bits(torch.tensor(keys), 7, torch.arange(3))
    for row, key in zip(bits.tolist(), keys, strict=True):
        assert [b & MASK for b in row] == [mix((mix(key + 8) + i * 0x9E3779B97F4A7C15) & MASK) for i in range(3)]


def test_uniform_numbers_fill_the_range_evenly_and_without_correlation() -> None:
    keys = torch.tensor([key_bits(0, 0, index) for index in range(4000)])
    numbers = keyed_uniform(keys, 0, 4)
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert (counts - 1600).abs().max() < 160  # four standard deviations
    both = torch.cat([numbers, keyed_uniform(keys, 1, 4)], dim=1)
    assert (torch.corrcoef(both.T) - torch.eye(8)).abs().max() < 0.08


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("long", [[], [5000], [5000] * 7, [2000, 3000, 5000, 9000]])
def test_batches_keep_their_bound_and_every_epoch_and_rank_has_equally_many(num_ranks: int, long: list[int]) -> None:
    lengths = [*LENGTHS, *long]
    options: Any = {"seed": 0, "position": lambda: Position(0, 0), "most": 9000, "num_ranks": num_ranks}
    parts = [ShuffledBatches(lengths, 8, rank=rank, **options) for rank in range(num_ranks)]
    plain = [SortedBatches(lengths, 8, most=9000, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for drawn in ([part.batches(0) for part in parts], [part.batches(1) for part in parts], [list(p) for p in plain]):
        assert {len(batches) for batches in drawn} == {len(parts[0])}
        batches = [[index for _, index in batch] for one in drawn for batch in one]
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        assert max(len(batch) * max(lengths[index] for index in batch) for batch in batches) <= 9000
        assert max(map(len, batches)) <= 8


def test_a_bound_that_no_clip_reaches_changes_no_batch() -> None:
    bounded = ShuffledBatches(LENGTHS, 8, seed=0, position=lambda: Position(0, 0), most=8 * 1000)
    assert [bounded.batches(epoch) for epoch in range(3)] == [shuffled().batches(epoch) for epoch in range(3)]


def test_a_clip_beyond_the_bound_is_a_batch_and_ranks_without_one_get_it_too() -> None:
    parts = [
        ShuffledBatches([9, 8], 8, seed=0, position=lambda: Position(0, 0), most=4, rank=r, num_ranks=3)
        for r in range(3)
    ]
    assert [len(part) for part in parts] == [1, 1, 1]
    assert {index for part in parts for batch in part.batches(0) for _, index in batch} == {0, 1}


CLASSES = [int(i % 11 == 0) + 2 * (i % 50 == 1) for i in range(len(LENGTHS))]  # 180, 19 and 4 clips


def balanced(rank: int = 0, num_ranks: int = 1, most: int | None = None, lengths: list[int] = LENGTHS) -> Any:
    options: Any = {"seed": 0, "position": lambda: Position(0, 0), "classes": CLASSES, "most": most}
    return ShuffledBatches(lengths, 8, rank=rank, num_ranks=num_ranks, **options)


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("most", [None, 7200])
def test_balanced_classes_come_equally_often_in_equally_many_batches_of_similar_length(
    num_ranks: int, most: int | None
) -> None:
    lengths = [*LENGTHS[:-3], 20_000, 50_000, 2000]
    parts = [balanced(rank, num_ranks, most, lengths) for rank in range(num_ranks)]
    assert {len(part.batches(epoch)) for part in parts for epoch in range(4)} == {len(parts[0])}
    batches = [[index % 203 for _, index in batch] for part in parts for batch in part.batches(2)]
    counts = torch.tensor([CLASSES[index] for batch in batches for index in batch]).bincount()
    assert counts.tolist() == [68, 68, 67]
    if most is not None:
        assert max(len(batch) * max(lengths[i] for i in batch) for batch in batches if len(batch) > 1) <= most
    padding = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in batches)
    assert most is None or padding < 0.3 * sum(lengths[i] for batch in batches for i in batch)


def test_a_balanced_epoch_repeats_rare_clips_with_other_noise_and_leaves_out_other_common_ones() -> None:
    epochs = [[index for batch in balanced().batches(epoch) for _, index in batch] for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert len({*epochs[0]}) == 203  # each has a key of its own
    rare = [index % 203 for index in epochs[0] if CLASSES[index % 203] == 2]
    assert sorted({*rare}) == [1, 51, 101, 151, 201]
    assert {rare.count(index) for index in rare} == {13, 14}
    common = [{index for index in epoch if CLASSES[index % 203] == 0} for epoch in epochs]
    assert all(index < 203 for index in common[0])
    assert common[0] != common[2]


def test_a_clip_that_comes_again_has_another_key() -> None:
    store = ClipStore([Clip(f"{i}", 0, 4) for i in range(3)], lambda clip: torch.zeros(4))
    batch = Batches(store, 0, None).__getitems__([(2, 1), (2, 1 + 3), (2, 1 + 6)])
    assert batch.indices.tolist() == [1, 1, 1]
    assert batch.keys.tolist() == [key_bits(0, 2, index) for index in (1, 4, 7)]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists")  # resuming in the same folder is meant
def test_a_balanced_epoch_resumes_in_its_middle(tmp_path: Path) -> None:
    straight = fit(tmp_path, balance="classes")
    fit(tmp_path, keeper(tmp_path, "after a step"), Kill(8), balance="classes")
    again = fit(tmp_path, keeper(tmp_path, "after a step"), ckpt_path=tmp_path / "last.ckpt", balance="classes")
    assert again.seen == straight.seen[8:]
    assert any(len({*indices}) < len(indices) for indices, _ in straight.seen)  # the rare class


def test_balance_is_for_clips_of_one_class() -> None:
    common: Any = {"sample_rate": 8000, "batch_size": 4, "num_workers": 0, "cache_gib": 1.0, "seed": 0, "augment": None}
    with pytest.raises(ValueError, match=r"data\.balance=classes needs clips of one class each"):
        Counted(**common, labels="several", balance="classes")
