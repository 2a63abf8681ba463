"""The embedded corpus: keyed clips, true facts, made once."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hopscotch.data.datamodule import Split
from hopscotch.data.synthetic import corpus, words
from hopscotch.data.synthetic.corpus import Recipe, corpus_path, kept_corpus, make_corpus
from hopscotch.data.synthetic.source import KEYWORD_SCENES, SyntheticWords
from hopscotch.data.synthetic.words import SNR_RANGE, SPEAKERS, WORDS, clip, scene, speaker

SMALL: dict[Split, int] = {"train": 40, "val": 20, "test": 20}
FEW: dict[Split, int] = {"train": 2, "val": 1, "test": 1}
RECIPES = (corpus.SPOKEN_WORDS, KEYWORD_SCENES._replace(numbers=(5.0,)))  # scenes as short as config/schema.py allows


def source(folder: Path, **changes: int) -> SyntheticWords:
    numbers = {"num_train": 40, "num_val": 20, "num_test": 20, "corpus_seed": 0, "sample_rate": 16_000} | changes
    return SyntheticWords(
        **numbers, cache_dir=str(folder), batch_size=8, num_workers=0, cache_gib=1.0, seed=0, augment=None
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_a_clip_is_a_function_of_seed_split_and_index() -> None:
    first = clip(0, "train", 7)
    for other in range(5):
        clip(0, "val", other)
    speaker.cache_clear()
    again = clip(0, "train", 7)
    assert np.array_equal(first.samples, again.samples)
    assert first[1:] == again[1:]
    for changed in (clip(1, "train", 7), clip(0, "test", 7), clip(0, "train", 27)):
        assert changed.label == first.label
        assert not np.array_equal(changed.samples[:1000], first.samples[:1000])


@pytest.mark.parametrize("recipe", RECIPES, ids=["words", "scenes"])
def test_a_longer_split_begins_with_the_shorter_one_and_processes_change_nothing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make_corpus({"train": 3}, 0, recipe, processes=1)["train"]
    monkeypatch.setattr(corpus, "FEW_CLIPS", 0)
    monkeypatch.setattr(corpus, "CHUNK", 1)
    long = make_corpus({"train": 6}, 0, recipe, processes=2)["train"]
    assert np.array_equal(long.samples[: len(short.samples)], short.samples)
    for name in ("lengths", "labels", "speakers", "snr_db"):
        assert np.array_equal(getattr(long, name)[:3], getattr(short, name))


def test_the_recorded_snr_is_the_measured_one() -> None:
    for index in range(20):
        word, noise, _, _, snr_db = scene(0, "test", index)
        said = np.trim_zeros(word)
        measured = 10 * np.log10(np.mean(np.square(said)) / np.mean(np.square(noise)))
        assert measured == pytest.approx(snr_db, abs=0.1)


def test_snr_covers_its_range_evenly() -> None:
    snr_db = np.sort([scene(0, "train", index).snr_db for index in range(40)])
    assert np.abs(snr_db - np.linspace(*SNR_RANGE, 40)).max() < 8.0


def test_no_sample_is_cut_and_none_is_lost() -> None:
    for index in range(20):
        samples = clip(0, "val", index).samples.astype(np.int64)
        assert 1000 < np.abs(samples).max() < 32_600
        assert 0.35 < len(samples) / 16_000 < 1.3  # seconds


def test_every_word_has_a_partner_of_the_same_phonemes_in_another_order() -> None:
    assert len(set(WORDS)) == 20
    assert all(4 <= len(word) <= 6 for word in WORDS)
    assert set(Counter("".join(sorted(word)) for word in WORDS).values()) == {2, 4}


def test_nobody_speaks_in_two_splits() -> None:
    people = [speaker(0, split, number) for split, count in SPEAKERS.items() for number in range(count)]
    assert len(people) == 60
    assert len({person.pitch for person in people}) == 60


def test_the_data_module_tells_labels_facts_and_lengths(cache: Path) -> None:
    data = source(cache)
    data.setup()
    assert data.classes == list(WORDS)
    assert {split: len(clips) for split, clips in data.clips.items()} == SMALL
    for clips in data.clips.values():
        assert set(Counter(clip.label for clip in clips).values()) == {len(clips) // 20}
    third = data.clips["val"][3]
    made = clip(0, "val", 3)
    assert third.name == f"val/{WORDS[3]}_00003"
    assert third.facts["snr_db"] == made.snr_db
    assert third.num_samples == len(made.samples)
    assert torch.equal(data.load(third), torch.from_numpy(made.samples.astype(np.float32) / 32768))


def test_a_word_of_a_split_is_spoken_by_its_speakers(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(seed: int, split: Split, number: int) -> Any:
        splits.append(split)
        return speaker(seed, split, number)

    splits: list[Split] = []
    monkeypatch.setattr(words, "speaker", asked)
    for split in SPEAKERS:
        scene(0, split, 3)
    assert splits == list(SPEAKERS)


@pytest.mark.parametrize("recipe", RECIPES, ids=["words", "scenes"])
def test_a_corpus_is_made_once_and_found_again(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept_corpus(tmp_path, FEW, 0, recipe)
    monkeypatch.setattr(corpus, "make_corpus", lambda *_, **__: pytest.fail("made twice"))
    again = kept_corpus(tmp_path, FEW, 0, recipe)
    assert np.array_equal(first["test"].samples, again["test"].samples)
    assert list((tmp_path / recipe.name).iterdir()) == [corpus_path(tmp_path, FEW, 0, recipe)]


def test_other_parameters_have_another_file(tmp_path: Path) -> None:
    recipes = [*RECIPES, RECIPES[1]._replace(numbers=(6.0,))]
    counts = [FEW, {**FEW, "val": 2}]
    paths = {corpus_path(tmp_path, few, seed, recipe) for few in counts for seed in (0, 1) for recipe in recipes}
    assert len(paths) == 12
    assert corpus_path(tmp_path, FEW, 0) == corpus_path(tmp_path, FEW, 0, corpus.SPOKEN_WORDS)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_corpus_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    made = kept_corpus(tmp_path, FEW, 0)
    path = corpus_path(tmp_path, FEW, 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes({"flipped": bytes(content), "cut": bytes(content[:-4000]), "emptied": b""}[damage])
    with caplog.at_level(logging.WARNING):
        repaired = kept_corpus(tmp_path, FEW, 0)
    assert "is damaged" in caplog.text
    assert np.array_equal(repaired["train"].samples, made["train"].samples)
    caplog.clear()
    kept_corpus(tmp_path, FEW, 0)
    assert "is damaged" not in caplog.text


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "synthetic_words").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        corpus = kept_corpus(tmp_path, {"train": 1, "val": 1, "test": 1}, 0)
    assert "data.cache_dir" in caplog.text
    assert len(corpus["train"].labels) == 1


def test_a_corpus_is_keyed_on_code_without_its_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(['"""Old."""\nrate = 1  # Hz\n', '"""New."""\nrate = 1\n', '"""Old."""\nrate = 2  # Hz\n'])
    monkeypatch.setattr("inspect.getsource", lambda _: next(texts))
    recipe = corpus.SPOKEN_WORDS._replace(modules=(words,))
    old, new_comments, new_code = (corpus_path(tmp_path, SMALL, 0, recipe) for _ in range(3))
    assert old == new_comments != new_code
