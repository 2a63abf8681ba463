"""Long clips among short ones: cropped in training, windowed in evaluation, and no dearer than they must be."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hopscotch.data.audio import read_clip, read_part
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.windows import evaluated
from hopscotch.types import AudioBatch, ModelOutput, SkipTrace

RATE = 8000
LENGTHS = [800, 600, 9000, 700]


class Counting(AudioDataModule):
    """Clips whose samples are their own places, the same in every split."""

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        clips = [Clip(f"{i}", 0, length) for i, length in enumerate(LENGTHS)]
        return ["a"], {split: list(clips) for split in SPLITS}

    def load(self, clip: Clip) -> Tensor:
        return torch.arange(clip.num_samples, dtype=torch.float32)


def counting(**changes: Any) -> Counting:
    keys: dict[str, Any] = {
        "sample_rate": RATE,
        "batch_size": 4,
        "num_workers": 0,
        "cache_gib": 1.0,
        "seed": 0,
        "augment": None,
        "max_seconds": 0.25,
    }
    data = Counting(**(keys | changes))
    data.setup()
    return data


def crop(data: AudioDataModule) -> list[float]:
    """Return the samples that the long clip came to in the first epoch."""
    (batch,) = [batch for batch in data.train_dataloader() if 2 in batch.indices]
    row = batch.indices.tolist().index(2)
    return batch.waveform[row, : batch.lengths[row]].tolist()


def test_a_crop_is_a_function_of_seed_epoch_and_clip_whoever_makes_it() -> None:
    first = crop(counting())
    assert first == list(range(int(first[0]), int(first[0]) + 2000))
    assert first == crop(counting(num_workers=2)) == crop(counting(cache_gib=0.0))
    assert len({crop(counting(seed=seed))[0] for seed in range(5)}) == 5


def test_crops_of_all_epochs_cover_the_clip() -> None:
    data = counting()
    batches = data._batches("train", None)
    starts = torch.tensor([batches._parts(epoch, 2)[0].start for epoch in range(400)]).float()
    assert 0 <= starts.min() < 100
    assert 6900 < starts.max() <= 7000
    assert abs(starts.mean() - 3500) < 400  # four standard deviations


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_has_all_windows_of_a_long_clip_and_the_last_ends_with_it(split: str) -> None:
    data = counting()
    batches = list(data.val_dataloader() if split == "val" else data.test_dataloader())
    rows = [row for b in batches for row in zip(b.indices.tolist(), b.lengths.tolist(), b.waveform[:, 0], strict=True)]
    assert sorted((i, n, int(start)) for i, n, start in rows) == [
        (0, 800, 0),
        (1, 600, 0),
        *((2, 2000, start) for start in (0, 2000, 4000, 6000, 7000)),
        (3, 700, 0),
    ]


def test_long_and_very_short_clips_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hopscotch"):
        counting(sample_rate=32_000)
    assert [record.message for record in caplog.records] == [
        "data: 3 clips are longer than data.max_seconds=0.25, cropped in training and windowed elsewhere: 2, 2, 2",
        "data: 6 clips are shorter than a frame of 0.025 s: 1, 3, 1, 3, 1 and 1 more",
    ]


def test_a_model_never_has_more_than_the_limit_before_it() -> None:
    data = counting()
    assert data.mean_samples() == (800 + 600 + 2000 + 700) / 4
    assert data.longest_samples() == 2000
    assert data.summary()["seconds"] == dict.fromkeys(SPLITS, round(sum(LENGTHS) / RATE, 1))
    for batches in (data.statistics_batches(), data.gain_batches(), data.calibration_batches()):
        assert max(batch.waveform.shape[1] for batch in batches) == 2000
    assert len(data.first_window(data.clips["test"][2])) == 2000


@pytest.mark.parametrize(("rate", "start"), [(8000, 1234), (44_100, 5001), (11_025, 0), (44_101, 7777), (4000, 15_000)])
def test_a_part_of_a_file_is_a_slice_of_the_whole(tmp_path: Path, rate: int, start: int) -> None:
    path = tmp_path / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 2 * rate), rate, subtype="FLOAT")
    part, whole = read_part(path, RATE, start, 900), read_clip(path, RATE)[start : start + 900]
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-6)


def says(logits: Tensor) -> Any:
    """Make a model that says the rows of `logits` in order, and costs the samples that it is given."""
    left = list(logits)

    def model(waveform: Tensor, lengths: Tensor) -> ModelOutput:
        rows = torch.stack([left.pop(0) for _ in lengths])
        trace = SkipTrace.of(torch.ones(len(lengths), 1, dtype=torch.bool), lengths, 2 * lengths)
        return ModelOutput(rows, trace, {}, lengths, lengths)

    return model


def batch(labels: Tensor) -> AudioBatch:
    indices, lengths = torch.tensor([4, 7, 7, 7]), torch.tensor([3, 5, 5, 5])
    return AudioBatch(torch.zeros(4, 5), lengths, labels, indices, indices)


@pytest.mark.parametrize("most", [2**22, 10, 1])  # samples that the model has at once
def test_windows_are_one_row_with_the_mean_probability_and_the_sum_of_costs(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hopscotch.data.windows.MAX_SAMPLES", most)
    logits = torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, -1.0], [5.0, 2.0]])
    output, joined = evaluated(says(logits), batch(torch.tensor([1, 0, 0, 0])))
    expected = torch.stack([logits[0].softmax(0), logits[1:].softmax(1).mean(0)])
    torch.testing.assert_close(output.logits.softmax(1), expected)
    assert joined.indices.tolist() == [4, 7]
    assert joined.labels.tolist() == [1, 0]
    assert output.trace.macs.tolist() == [3, 15]
    assert output.trace.dense_macs.tolist() == [6, 30]
    assert output.trace.fraction.tolist() == [0.5, 0.5]
    assert output.frontend_macs.tolist() == [3, 15]


def test_several_labels_are_averaged_as_probabilities_and_numbers_as_they_are() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.0, 3.0], [1.0, -1.0], [5.0, 2.0]])
    output, _ = evaluated(says(logits), batch(torch.ones(4, 2)))
    torch.testing.assert_close(output.logits[1].sigmoid(), logits[1:].sigmoid().mean(0))
    output, _ = evaluated(says(logits[:, :1]), batch(torch.ones(4)))
    assert output.logits.tolist() == [[1.0], [2.0]]


def test_a_batch_without_windows_is_the_model_s_own() -> None:
    given = batch(torch.tensor([1, 0, 0, 0]))._replace(indices=torch.arange(4))
    logits = torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    output, same = evaluated(says(logits), given)
    assert torch.equal(output.logits, logits)
    assert same is given


def padded(data: AudioDataModule) -> list[int]:
    return [batch.waveform.numel() for batch in data.train_dataloader()]


class Many(Counting):
    """A long clip among 2,000 short ones, or none."""

    lengths = (50,) * 2000

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        clips = [Clip(f"{i}", 0, length) for i, length in enumerate(self.lengths)]
        return ["a"], {split: list(clips) for split in SPLITS}


class OneLong(Many):
    lengths = (*Many.lengths, 60_000)


def test_a_long_clip_adds_its_own_cost_and_makes_no_batch_of_training_long() -> None:
    keys: Any = {"sample_rate": 100, "batch_size": 32, "num_workers": 0, "cache_gib": 1.0, "seed": 0, "augment": None}
    short, long = (kind(**keys, max_seconds=30.0, batch_seconds="auto") for kind in (Many, OneLong))
    short.setup()
    long.setup()
    assert sum(padded(short)) == 2000 * 50
    assert sum(padded(long)) == 2000 * 50 + 3000
    assert max(padded(long)) == 3000
    rows = [len(batch.indices) for batch in long.val_dataloader()]
    assert rows == [len(batch.indices) for batch in short.val_dataloader()] + [20]  # windows of 30 s
    for batches in (long.statistics_batches(), long.gain_batches(), long.calibration_batches()):
        assert max(batch.waveform.numel() for batch in batches) <= 8 * 32 * long.mean_samples()


def test_without_a_bound_in_seconds_windows_count_as_clips() -> None:
    data = counting(batch_size=2)
    assert sorted(len(batch.indices) for batch in data.val_dataloader()) == [1, 2, 5]
