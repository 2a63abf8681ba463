"""events.py: parts, speeds and rows of events, and what batches make of them."""

from fractions import Fraction

import pytest
import torch

from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import Batches, Clip, ClipStore
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.data.events import Event, covered, events_in, part_of, played, rows_of
from hopscotch.types import AudioBatch
from tests.row_sources import COMMON, RATE

EVENTS = (Event(10, 20, 0), Event(15, 40, 1), Event(90, 100, 0))
AUGMENT = {
    "sample_rate": RATE,
    "speeds": [0.5, 2.0],
    "silence_probability": 1.0,
    "silence_seconds": 0.1,
    "gain_db": 0.0,
    "noise_probability": 0.0,
    "noise_snr_db": [0.0, 1.0],
    "impulse_probability": 0.0,
}


class Ticks(AudioDataModule):
    """Recordings of two seconds, silent but for 1 during their events."""

    has_events = True

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        clips = [
            Clip(f"{i}", -1, 2 * RATE, events=(Event(4000, 4800, 0), Event(9000 + 700 * i, 10_000 + 700 * i, 1)))
            for i in range(6)
        ]
        return ["a", "b"], {"train": clips, "val": clips[:2], "test": clips[:2]}

    def load(self, clip: Clip) -> torch.Tensor:
        waveform = torch.zeros(clip.num_samples)
        for start, end, _ in clip.events or ():
            waveform[start:end] = 1.0
        return waveform


def ticks(**keys: object) -> Ticks:
    data = Ticks(**{**COMMON, "labels": "events", **keys})
    data.setup()
    return data


def assert_heard_where_they_are(batch: AudioBatch, *, within: int) -> None:
    """The loud samples of each row are those of its events, up to some samples at their edges."""
    for waveform, rows in zip(batch.waveform, batch.labels, strict=True):
        wanted = torch.zeros(len(waveform), dtype=torch.bool)
        for start, end, _ in events_in(rows):
            wanted[start:end] = True
        wrong = (waveform > 0.5) != wanted
        edges = 2 * len(events_in(rows))
        assert wrong.sum() <= within * edges


def test_a_part_has_the_events_within_it_cut_at_its_ends() -> None:
    assert part_of(EVENTS, 0, 100) == EVENTS
    assert part_of(EVENTS, 18, 20) == (Event(0, 2, 0), Event(0, 20, 1))
    assert part_of(EVENTS, 40, 50) == ()
    assert part_of((), 0, 10) == ()


def test_a_speed_of_two_halves_times_after_the_silence() -> None:
    assert played(EVENTS, Fraction(2), 3, 60) == (Event(8, 13, 0), Event(11, 23, 1), Event(48, 53, 0))
    assert played((Event(10, 11, 0),), Fraction(2), 0, 60) == (Event(5, 6, 0),)  # it lasts at least a sample


def test_rows_are_filled_with_minus_one_and_read_back() -> None:
    rows = rows_of([EVENTS, (), EVENTS[:1]])
    assert rows.shape == (3, 3, 3)
    assert rows.dtype == torch.int64
    assert [events_in(row) for row in rows] == [EVENTS, (), EVENTS[:1]]
    assert rows[1].tolist() == [[-1, -1, -1]] * 3
    assert rows_of([()]).tolist() == [[[-1, -1, -1]]]


def test_what_overlaps_is_covered_once() -> None:
    assert covered(EVENTS) == 40
    assert covered(()) == 0


def test_a_batch_has_events_where_they_are_heard() -> None:
    data = ticks()
    (batch,) = list(data.val_dataloader())
    assert batch.labels.shape == (2, 2, 3)
    assert_heard_where_they_are(batch, within=0)


def test_a_crop_shifts_and_cuts_events_and_evaluation_takes_all() -> None:
    data = ticks(max_seconds=0.7)
    batches = list(data.train_dataloader())
    assert {batch.waveform.shape[1] for batch in batches} == {5600}
    for batch in batches:
        assert_heard_where_they_are(batch, within=0)
    rows = [events_in(row) for batch in batches for row in batch.labels]
    assert len({len(events) for events in rows}) > 1
    assert next(iter(data.val_dataloader())).waveform.shape[1] == 2 * RATE
    assert next(data.calibration_batches()).waveform.shape[1] == 2 * RATE


def test_augmentation_moves_events_with_the_sound() -> None:
    data = ticks()
    batches = Batches(ClipStore(data.clips["train"], data.load), 0, WaveformAugment(**AUGMENT), 2)
    batch = batches.__getitems__([(0, index) for index in range(6)])
    assert {len(row) for row in map(events_in, batch.labels)} == {2}
    assert len(set(batch.lengths.tolist())) > 2
    assert_heard_where_they_are(batch, within=3)


def test_a_source_of_events_and_a_task_of_events_need_each_other() -> None:
    with pytest.raises(ValueError, match="Ticks has recordings with events, which need task=detect"):
        Ticks(**COMMON)
    with pytest.raises(ValueError, match="AudioDataModule has no events, which task=detect needs: data=streams or"):
        AudioDataModule(**COMMON, labels="events")


def test_the_fingerprint_knows_events_and_a_trained_model_numbers_their_classes() -> None:
    first, second = ticks(), Ticks(**COMMON, labels="events")
    second.name_classes(["b", "a"])
    second.setup()
    assert first.fingerprint() != second.fingerprint()
    assert [event.label for event in second.clips["val"][0].events or ()] == [1, 0]


def test_the_summary_counts_events_and_their_share_of_the_time() -> None:
    summary = ticks().summary()
    assert summary["events"] == {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}
    assert summary["duty"] == {"train": 0.1125, "val": 0.1125, "test": 0.1125}
