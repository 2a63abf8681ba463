"""datamodule.py: batches are the same bits whoever makes them, and no clip is read twice or lost."""

import logging
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper

from hopscotch.data.audio import AudioFileError
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.types import AudioBatch, key_bits

NUM_CLIPS = {"train": 37, "val": 11, "test": 5}


class Tones(AudioDataModule):
    """Sine tones made on the spot: what a data source of one's own has to write."""

    num_loads = 0

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        splits: tuple[Split, ...] = ("train", "val", "test")
        return ["low", "high"], {
            split: [Clip(f"{split}/{i}", i % 2, 200 + 13 * i % 90) for i in range(NUM_CLIPS[split])] for split in splits
        }

    def load(self, clip: Clip) -> Tensor:
        self.num_loads += 1
        number = int(clip.name.split("/")[1])
        return torch.sin(torch.arange(clip.num_samples) * (0.1 + number / 20))


AUGMENT = WaveformAugment(
    sample_rate=8000,
    speeds=[0.9, 1.0, 1.1],
    silence_probability=0.5,
    silence_seconds=0.005,
    gain_db=6.0,
    noise_probability=0.5,
    noise_snr_db=[5.0, 30.0],
    impulse_probability=0.0,
)


def tones(source: type[AudioDataModule] = Tones, **changes: Any) -> Any:
    keys = {"sample_rate": 8000, "batch_size": 4, "num_workers": 0, "cache_gib": 1.0, "seed": 0, "augment": AUGMENT}
    data = source(**(keys | changes))
    data.setup()
    return data


def same(a: AudioBatch, b: AudioBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_batches_are_bit_identical_with_no_worker_and_with_two(cache_gib: float) -> None:
    alone = list(tones(cache_gib=cache_gib).train_dataloader())
    shared = list(tones(cache_gib=cache_gib, num_workers=2).train_dataloader())
    assert len(alone) == len(shared) == 10
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_batches_do_not_depend_on_the_number_of_threads_and_leave_it_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = list(tones().train_dataloader())
        torch.set_num_threads(2)
        double = list(tones().train_dataloader())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all(same(a, b) for a, b in zip(single, double, strict=True))


def test_making_batches_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    data = tones()
    list(data.train_dataloader())
    list(data.val_dataloader())
    list(data.statistics_batches())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_holds_each_clip_padded_with_its_label_index_and_key() -> None:
    data = tones(augment=None)
    for batch in data.train_dataloader():
        assert batch.waveform.shape == (len(batch.labels), batch.lengths.max())
        for row, index in enumerate(batch.indices.tolist()):
            clip = data.clips["train"][index]
            assert batch.labels[row] == clip.label
            assert batch.lengths[row] == clip.num_samples
            assert batch.keys[row] == key_bits(0, 0, index)
            assert torch.equal(batch.waveform[row, : clip.num_samples], data.load(clip))
            assert batch.waveform[row, clip.num_samples :].abs().sum() == 0


def test_the_second_epoch_decodes_nothing_where_clips_fit_in_memory() -> None:
    data = tones()
    assert data.num_loads == sum(NUM_CLIPS.values())
    for _ in range(2):
        list(data.train_dataloader())
        list(data.val_dataloader())
    assert data.num_loads == sum(NUM_CLIPS.values())
    assert data.summary()["kept"] == ["memory"]


def test_clips_beyond_the_budget_are_decoded_on_demand_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hopscotch"):
        data = tones(cache_gib=1e-6)
    assert [record.message for record in caplog.records] == [
        "Clips take 0.00 GiB, more than data.cache_gib=1e-06: decoding on demand."
    ]
    assert data.num_loads == 0
    for epoch in (1, 2):
        list(data.train_dataloader())
        assert data.num_loads == 37 * epoch
    assert data.summary()["kept"] == ["nowhere"]
    kept, lazy = tones().train_dataloader(), data.train_dataloader()
    assert all(same(a, b) for a, b in zip(kept, lazy, strict=True))


def test_augmentation_leaves_the_clips_in_memory_as_they_were() -> None:
    data = tones()
    list(data.train_dataloader())
    for split in ("train", "val"):
        for index, clip in enumerate(data.clips[split]):
            assert torch.equal(data._stores[split][index], data.load(clip))


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_sees_every_clip_once_unaugmented_in_a_fixed_order(split: str) -> None:
    data = tones()
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    indices = torch.cat([batch.indices for batch in loader])
    assert sorted(indices.tolist()) == list(range(NUM_CLIPS[split]))
    assert torch.equal(indices, torch.cat([batch.indices for batch in loader]))
    for batch in loader:
        first = data.clips[split][int(batch.indices[0])]
        assert torch.equal(batch.waveform[0, : first.num_samples], data.load(first))


def test_statistics_come_from_unaugmented_training_clips_at_most_500_of_them() -> None:
    data = tones()
    batches = list(data.statistics_batches())
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(37))
    for batch in batches:
        clip = data.clips["train"][int(batch.indices[0])]
        assert torch.equal(batch.waveform[0, : clip.num_samples], data.load(clip))

    class Many(Tones):
        def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
            classes, clips = super().find_clips()
            clips["train"] = [Clip(f"train/{i}", i % 2, 20) for i in range(600)]
            return classes, clips

    first, again = tones(Many), tones(Many)
    assert sum(len(batch.labels) for batch in first.statistics_batches()) == 500
    pairs = zip(first.statistics_batches(), again.statistics_batches(), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_a_budget_is_met_on_at_most_256_clips_of_all_lengths_whatever_the_batch_size() -> None:
    class Many(Tones):
        def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
            classes, clips = super().find_clips()
            clips["val"] = [Clip(f"val/{i}", i % 2, 20 + (7 * i) % 600) for i in range(600)]
            return classes, clips

    for batch_size in (4, 512):
        batches = list(tones(Many, batch_size=batch_size).calibration_batches())
        lengths = torch.cat([batch.lengths for batch in batches]).float()
        assert len(lengths) == 200
        assert lengths.mean().item() == pytest.approx(20 + 599 / 2, rel=0.01)
        assert lengths.max() > 610
    few = tones()
    assert sorted(torch.cat([batch.indices for batch in few.calibration_batches()]).tolist()) == list(
        range(NUM_CLIPS["val"])
    )


def test_a_source_can_be_sent_to_a_worker_without_the_trainer() -> None:
    data = tones()
    data.trainer = object()
    sent = pickle.loads(pickle.dumps(data))
    assert sent.__dict__.get("trainer") is None
    assert torch.equal(sent.load(data.clips["val"][0]), data.load(data.clips["val"][0]))


def test_setup_decodes_only_what_the_stage_needs_and_only_once() -> None:
    keys: dict[str, Any] = {"sample_rate": 8000, "batch_size": 4, "num_workers": 0, "cache_gib": 1.0, "seed": 0}
    data = Tones(**keys, augment=None)
    data.setup("test")
    assert data.num_loads == NUM_CLIPS["test"]
    data.setup("test")
    data.setup("fit")
    assert data.num_loads == sum(NUM_CLIPS.values())


def test_summary_and_mean_say_what_there_is() -> None:
    data = tones()
    lengths = [clip.num_samples for clip in data.clips["train"]]
    assert data.mean_samples() == sum(lengths) / 37
    summary = data.summary()
    assert summary["clips"] == NUM_CLIPS
    assert summary["classes"] == ["low", "high"]
    assert summary["seconds"]["train"] == pytest.approx(sum(lengths) / 8000, abs=0.05)


def test_the_fingerprint_changes_with_a_name_a_label_or_a_length() -> None:
    def fingerprint(clip: Clip) -> str:
        class One(Tones):
            def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
                classes, clips = super().find_clips()
                clips["test"] = [clip]
                return classes, clips

        return tones(One).fingerprint()

    reference = fingerprint(Clip("t/1", 0, 200))
    assert fingerprint(Clip("t/1", 0, 200, facts={"snr_db": 3.0})) == reference
    changed = [Clip("t/2", 0, 200), Clip("t/1", 1, 200), Clip("t/1", 0, 201)]
    assert len({reference, *map(fingerprint, changed)}) == 4


def test_a_file_that_goes_bad_during_training_is_named() -> None:
    class Fading(Tones):
        def load(self, clip: Clip) -> Tensor:
            if clip.name == "train/7":
                raise AudioFileError("Audio file train/7: cannot be opened.")
            return super().load(clip)

    data = tones(Fading, cache_gib=0.0)
    with pytest.raises(AudioFileError, match="Audio file train/7: cannot be opened") as error:
        list(data.train_dataloader())
    with pytest.raises(AudioFileError, match="Audio file train/7: cannot be opened"):
        # A loader worker hands errors on like this; a real one takes torch ten seconds to shut down.
        ExceptionWrapper((type(error.value), error.value, error.tb), where="in a worker").reraise()


def test_a_batch_is_made_while_its_predecessor_is_used_by_a_thread_that_ends_with_the_loop() -> None:
    made: list[threading.Thread] = []  # by whom, clip by clip

    class Noted(Tones):
        def load(self, clip: Clip) -> Tensor:
            made.append(threading.current_thread())
            return super().load(clip)

    data = tones(Noted, cache_gib=0.0)
    batches = iter(data.train_dataloader())
    first = next(batches)
    deadline = time.monotonic() + 10.0
    while len(made) == len(first.labels) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) > len(first.labels)  # the second batch is on its way, unasked
    (thread,) = set(made)
    assert thread is not threading.main_thread()
    del batches  # as a loop does that is left by an error or Ctrl-C
    assert not thread.is_alive()


def test_clips_shared_with_workers_lie_in_one_tensor() -> None:
    store = tones()._stores["train"]
    assert store.shelf is not None
    assert isinstance(store.shelf.place, torch.Tensor)
    store[0]
    sent = pickle.loads(pickle.dumps(store.shelf))
    assert torch.equal(sent.place, store.shelf.place)
    assert sent._bytes is None  # what each process makes of it is its own


def test_a_progress_bar_never_changes_what_is_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hopscotch.progress.PATIENCE", 0.0)
    data = tones()
    assert torch.equal(data._stores["train"][5], data.load(data.clips["train"][5]))


def test_what_is_random_in_a_clip_follows_the_seed() -> None:
    batch = next(iter(tones(seed=5).train_dataloader()))
    assert batch.keys.tolist() == [key_bits(5, 0, index) for index in batch.indices.tolist()]
