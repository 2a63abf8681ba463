"""streams.py and composition.py: recordings are a function of their key, and say where words are heard in them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hopscotch.build import build_data
from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.data.composition import LEVEL_DB, Choice, Pools, Rules, Stretch, Word, draw, heard
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.esc50 import Esc50
from hopscotch.data.events import events_in
from hopscotch.data.folder import Folder
from hopscotch.data.noise import Noise
from hopscotch.data.streams import Streams
from hopscotch.data.synthetic.words import keyed
from hopscotch.data.words20 import Words20
from tests.row_sources import RATE, add, source
from tests.word_streams import HEARD, WORDS, streams, write, write_background, write_words


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    write_words(root / "words")
    write_background(root / "noise")
    return root


@pytest.fixture(scope="module")
def data(root: Path) -> Streams:
    data = streams(root)
    data.setup()
    return data


def words_of(data: Streams, split: Split, kind: str) -> list[Word]:
    return [word for clip in data.clips[split] for word in getattr(data.plans[clip.name], kind)]


def name_of(data: Streams, split: Split, word: Word) -> str:
    clips = data.sources["clips"]
    return clips.classes[clips.clips[split][word.clip].labels[0]]  # pyright: ignore[reportArgumentType,reportCallIssue]


def test_a_recording_depends_on_seed_split_and_index_alone(root: Path, data: Streams) -> None:
    other = streams(root, num_train=2, num_val=9, seed=5, batch_size=1)
    other.setup()
    for split in SPLITS:
        for index in range(2):
            assert torch.equal(data.waveform(split, index), other.waveform(split, index))
            assert data.clips[split][index] == other.clips[split][index]
    assert not torch.equal(data.waveform("val", 0), data.waveform("val", 1))
    assert not torch.equal(data.waveform("val", 0), data.waveform("test", 0))
    another = streams(root, corpus_seed=1)
    another.setup()
    assert not torch.equal(data.waveform("val", 0), another.waveform("val", 0))
    assert data.fingerprint() != another.fingerprint()


def test_training_recordings_may_be_shorter_and_fuller(root: Path, data: Streams) -> None:
    other = streams(root, num_train=20, train={"seconds": 2.0, "events_per_minute": 60.0})
    other.setup()
    assert {clip.num_samples for clip in other.clips["train"]} == {2 * other.sample_rate}
    assert other.waveform("train", 0).shape == (2 * other.sample_rate,)
    assert 1 < len(words_of(other, "train", "keywords")) / 20 < 3  # two were asked for
    for split in ("val", "test"):
        assert other.clips[split] == data.clips[split]


def test_nothing_is_stored_and_workers_compose_the_same(root: Path, data: Streams) -> None:
    assert data.summary()["kept"] == ["nowhere"]
    helped = streams(root, num_workers=1)
    helped.setup()
    for alone, worker in zip(data.val_dataloader(), helped.val_dataloader(), strict=True):
        assert torch.equal(alone.waveform, worker.waveform)
        assert torch.equal(alone.labels, worker.labels)


def test_events_are_where_words_are_heard_at_the_level_that_was_drawn(root: Path) -> None:
    data = streams(root, distractors=False, gain_db=0.0)
    data.setup()
    num_words, levels = 0, []
    for split in SPLITS:
        for index, clip in enumerate(data.clips[split]):
            mixed, plan = data.waveform(split, index), data.plans[clip.name]
            data.plans[clip.name] = plan._replace(keywords=())  # the background alone
            alone = data.load(clip)
            words = mixed - alone
            inside = torch.zeros(len(words), dtype=torch.bool)
            for word in plan.keywords:
                start, end, _ = word.event
                inside[start:end] = True
                snr_db = 10 * torch.log10(words[start:end].square().mean() / alone.square().mean())
                assert abs(float(snr_db) - word.snr_db) < 0.3
                assert end - start == round(HEARD * RATE)
                levels.append(word.snr_db)
                num_words += 1
            assert words[~inside].square().sum() < 1e-6 * max(1e-9, float(words.square().sum()))
            level = 10 * torch.log10(alone.square().mean())
            assert abs(float(level) - LEVEL_DB) < 0.5
    assert num_words > 30
    assert min(levels) < 4
    assert max(levels) > 16


def test_distractors_are_heard_and_are_never_events(data: Streams) -> None:
    assert data.classes == ["stop", "go"]
    for split in SPLITS:
        events, distractors = (words_of(data, split, kind) for kind in ("keywords", "distractors"))
        assert {name_of(data, split, word) for word in events} == {"stop", "go"}
        assert {name_of(data, split, word) for word in distractors} <= {"no", "yes"}
        assert all(data.classes[word.event.label] == name_of(data, split, word) for word in events)
        for index, clip in enumerate(data.clips[split]):
            plan = data.plans[clip.name]
            assert clip.events == plan.events
            added = data.waveform(split, index)
            data.plans[clip.name] = plan._replace(distractors=())
            added -= data.waveform(split, index)
            data.plans[clip.name] = plan
            for word in plan.distractors:
                start, end, label = word.event
                assert label == -1
                level_db = 10 * torch.log10(added[start:end].square().mean())
                assert abs(float(level_db) - word.snr_db - plan.level_db) < 0.1
                assert all(one.end <= start or one.start >= end for one in plan.events)
    assert len(words_of(data, "train", "distractors")) > 3


def test_words_do_not_overlap_and_lie_within_the_recording(data: Streams) -> None:
    for split in SPLITS:
        for clip in data.clips[split]:
            plan = data.plans[clip.name]
            spans = sorted((word.start, word.start + word.num_samples) for word in plan.keywords + plan.distractors)
            edges = [edge for span in spans for edge in span]
            assert edges == sorted(edges)
            assert not edges or (edges[0] >= 0 and edges[-1] <= clip.num_samples)


def test_batches_have_the_events_of_their_recordings(data: Streams) -> None:
    for batch in data.val_dataloader():
        for index, rows in zip(batch.indices.tolist(), batch.labels, strict=True):
            assert events_in(rows) == data.clips["val"][index].events


def test_the_summary_has_duty_counts_and_sources(data: Streams) -> None:
    summary: dict[str, Any] = data.summary()
    for split in SPLITS:
        events = [event for clip in data.clips[split] for event in clip.events or ()]
        assert sum(summary["events"][split].values()) == len(events) > 0
        assert set(summary["events"][split]) <= {"stop", "go"}
        seconds = sum(event.end - event.start for event in events) / RATE
        assert summary["duty"][split] == pytest.approx(seconds / (10 * len(data.clips[split])), abs=1e-5)
        assert summary["distractors"][split] == len(words_of(data, split, "distractors"))
    assert summary["sources"]["clips"]["clips"] == {"train": 16, "val": 16, "test": 16}
    assert summary["sources"]["background"]["clips"] == {"train": 6, "val": 2, "test": 2}


def test_no_speaker_clip_or_background_is_in_two_splits(data: Streams) -> None:
    words, noise = data.sources["clips"], data.sources["background"]
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        for used, kinds, more in ((words, ("keywords", "distractors"), "group"), (noise, ("background",), "group")):
            found = [
                {
                    getattr(used.clips[split][one.clip], key)  # pyright: ignore[reportArgumentType]
                    for clip in data.clips[split]  # pyright: ignore[reportArgumentType]
                    for kind in kinds
                    for one in getattr(data.plans[clip.name], kind)
                    for key in ("path", more)
                }
                for split in (first, second)
            ]
            assert all(found)
            assert not found[0] & found[1]


def test_a_speaker_in_two_splits_is_refused(root: Path, tmp_path: Path) -> None:
    write_words(tmp_path)
    table = tmp_path / "words20.csv"
    table.write_text(table.read_text().replace(",s5,", ",s0,"))
    data = streams(root, clips=source(Words20, root=str(tmp_path)))
    with pytest.raises(ValueError, match=r"data\.clips must have splits that share no speaker.*got speaker: s0 in two"):
        data.setup()


def test_background_of_a_recording_that_two_splits_have_is_left_out_of_the_later_one(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_background(tmp_path)
    table = tmp_path / "esc50.csv"
    table.write_text(table.read_text().replace(",5,50", ",5,40"))
    data = streams(root, background=source(Esc50, root=str(tmp_path), fold=5, val_fold=4, labels="several"))
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert "data.background: 1 clips are left out, of recordings that another split has, too: 5-0.wav" in caplog.text
    used = {piece.clip for clip in data.clips["test"] for piece in data.plans[clip.name].background}
    assert {data.sources["background"].clips["test"][index].name for index in used} == {"5-1.wav"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"keywords": ["stop", "halt"]},
            r"data.keywords must name classes of data.clips \(go, no, stop, yes\), got halt.",
        ),
        ({"sample_rate": 16000}, "data.clips.sample_rate must be data.sample_rate, 16000, got 8000."),
    ],
)
def test_what_does_not_fit_is_named(root: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        streams(root, **keys).setup()


def test_all_words_are_keywords_unless_some_are_named(root: Path) -> None:
    data = streams(root, keywords=None)
    data.setup()
    assert data.classes == list(WORDS)
    assert words_of(data, "train", "distractors") == []


def test_a_folder_of_noise_is_background_and_a_folder_of_words_has_the_clips(tmp_path: Path, root: Path) -> None:
    for number in range(12):
        add(tmp_path / "hum" / "deep" / f"{number}.wav", 3.0)
        for word in ("a", "b"):
            add(tmp_path / "words" / word / f"{number}.wav", 0.3)
    splits = {"val_fraction": 0.2, "test_fraction": 0.2}
    data = streams(
        root,
        clips=source(Folder, root=str(tmp_path / "words"), **splits),
        background=source(Noise, root=str(tmp_path / "hum"), labels="several", **splits),
        keywords=["a"],
    )
    data.setup()
    assert data.sources["background"].classes == ["noise"]
    assert all(len(clip.events or ()) for clip in data.clips["train"][:1])
    long = [piece for clip in data.clips["train"] for piece in data.plans[clip.name].background]
    assert {piece.num_samples for piece in long} == {3 * RATE, RATE}  # 3 + 3 + 3 + 1 seconds
    assert any(piece.first for piece in long)  # the last second begins anywhere


def test_streams_are_composed_from_a_configuration_with_other_sources(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hopscotch.training.classify.ClassificationTask.labels", "events")
    sizes = ["data.seconds=10", "data.num_train=6", "data.num_val=4", "data.num_test=4", "data.keywords=[stop,go]"]
    rates = ["data.events_per_minute=24", "data.distractors_per_minute=12", f"data.sample_rate={RATE}"]
    typed = [f"data.clips.root={root / 'words'}", f"data.background.root={root / 'noise'}", *sizes, *rates]
    made = build_data(compose(["data=streams", *typed]))
    made.setup()
    same = streams(root)
    same.setup()
    assert made.fingerprint() == same.fingerprint()
    assert isinstance(made, Streams)
    assert made.sources["background"].summary()["clips"] == {"train": 6, "val": 2, "test": 2}
    other = build_data(compose(["data=streams", "data@data.background=noise", *typed]))
    other.setup()
    assert isinstance(other, Streams)
    assert type(other.sources["background"]) is Noise


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.keywords=[]", "data.keywords must be null, or a list of at least one, got []."),
        ("data.seconds=0", "data.seconds must be above 0, got 0"),
        ("data.snr_db=[3,1]", "data.snr_db must be two numbers, the lower one first, got [3"),
        ("data.clips.on_bad=never", "data.clips.on_bad must be one of raise, skip, got never."),
        ("data.clips.rot=x", "there is no key data.clips.rot. Did you mean data.clips.root?"),
    ],
)
def test_a_wrong_key_of_streams_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["data=streams", word])
    assert message in str(caught.value)


def test_what_is_heard_begins_and_ends_where_a_clip_is_loud() -> None:
    clip = torch.zeros(1000)
    clip[330:610] = 0.1
    clip[900:] = 0.001  # 40 dB below it
    assert heard(clip, 1000) == (320, 620)
    assert heard(torch.zeros(30), 1000) == (0, 30)
    assert heard(torch.ones(5), 1000) == (0, 5)


def test_words_for_which_there_is_no_room_are_left_out() -> None:
    rules = Rules(1000, 1000, num_keywords=50.0, num_distractors=0.0, snr_db=(0.0, 0.0), gain_db=0.0)
    pools = Pools([[Choice(0, 0, 300, (100, 200))]], [], [Stretch(0, 10)])
    plan = draw(keyed(0, "test", 0), rules, pools)
    assert len(plan.keywords) == 5  # each takes its tenth of a second, and 50 ms before and after
    assert sum(piece.num_samples for piece in plan.background) == 1000


def test_counts_have_the_means_that_are_wanted() -> None:
    rules = Rules(60_000, 1000, num_keywords=2.0, num_distractors=5.0, snr_db=(3.0, 3.0), gain_db=0.0)
    choice = [[Choice(0, 0, 100, (0, 100))], [Choice(1, 1, 100, (0, 100))]]
    other = [[Choice(2, -1, 100, (0, 100))]]
    plans = [draw(keyed(0, "test", index), rules, Pools(choice, other, [Stretch(0, 9)])) for index in range(400)]
    assert np.mean([len(plan.keywords) for plan in plans]) == pytest.approx(2.0, abs=0.25)
    assert np.mean([len(plan.distractors) for plan in plans]) == pytest.approx(5.0, abs=0.4)
    assert {len(plan.keywords) for plan in plans} >= {0, 1, 2, 3, 4}
    labels = [word.event.label for plan in plans for word in plan.keywords]
    assert np.mean(labels) == pytest.approx(0.5, abs=0.06)


def test_a_silent_recording_of_background_stays_silent(root: Path, tmp_path: Path) -> None:
    for name in range(4):
        write(tmp_path / f"{name}.wav", np.zeros(RATE))
    noise = source(Noise, root=str(tmp_path), labels="several", silent_ok=True, val_fraction=0.3, test_fraction=0.3)
    data = streams(root, background=noise, events_per_minute=0.0, distractors=False, keywords=None)
    clips = data.find_clips()[1]["train"]
    assert not data.load(clips[0]).any()
