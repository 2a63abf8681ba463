"""Long scenes: one keyword each, laid out as the plan says, the same however they are made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.data.datamodule import SPLITS, Split
from hopscotch.data.synthetic.formants import Speaker
from hopscotch.data.synthetic.scenes import (
    CONFUSABLE,
    NOISE,
    PLAIN,
    SCENE_RATE,
    SILENCE,
    KeywordScene,
    halved,
    keyword_scene,
    numbered_scene,
)
from hopscotch.data.synthetic.source import SyntheticScenes
from hopscotch.data.synthetic.words import SNR_RANGE, WORDS, speaker
from tests.small_models import classifier
from tests.tiny import TINY_MODEL, TINY_RUN, build, fit

KEYWORDS, OTHERS, NUM_OTHERS = PLAIN.keywords, PLAIN.others, PLAIN.num_others
MIN_SECONDS = 5.0  # as config/schema.py has it
SMALL: dict[Split, int] = {"train": 10, "val": 2, "test": 3}


@pytest.fixture(scope="module")
def scenes() -> list[KeywordScene]:
    return [keyword_scene(8.0, 0, "test", index) for index in range(20)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def source(folder: Path, **changes: float) -> SyntheticScenes:
    numbers: dict[str, Any] = {"num_train": 10, "num_val": 2, "num_test": 3, "corpus_seed": 0, "confusable": False}
    numbers |= {"sample_rate": SCENE_RATE, "scene_seconds": MIN_SECONDS, "cache_gib": 1.0} | changes
    return SyntheticScenes(**numbers, cache_dir=str(folder), batch_size=4, num_workers=0, seed=0, augment=None)


def power(sound: np.ndarray) -> float:
    return float(np.mean(np.square(sound, dtype=np.float64)))


def test_every_keyword_has_a_partner_of_the_same_phonemes_and_some_have_it_among_the_other_words() -> None:
    assert len(KEYWORDS) == len(OTHERS) == 10
    assert {*KEYWORDS, *OTHERS} == {*WORDS}
    phonemes = {word: "".join(sorted(word)) for word in WORDS}
    assert all([phonemes[other] for other in WORDS].count(phonemes[word]) > 1 for word in KEYWORDS)
    elsewhere = [word for word in KEYWORDS if phonemes[word] in [phonemes[other] for other in OTHERS]]
    assert elsewhere == ["lomina", "milano"]


def test_exactly_one_word_is_a_keyword_and_the_label_says_which(scenes: list[KeywordScene]) -> None:
    num_others = set()
    for scene in scenes:
        said = [stretch.sound for stretch in scene.plan if stretch.sound not in (NOISE, SILENCE)]
        assert [word for word in said if word in KEYWORDS] == [KEYWORDS[scene.label]]
        assert [word for word in said if word not in KEYWORDS and word not in OTHERS] == []
        num_others.add(len(said) - 1)
    assert num_others == set(range(NUM_OTHERS[0], NUM_OTHERS[1] + 1))
    assert sorted(scene.label for scene in scenes) == sorted(2 * [*range(10)])


def test_in_confusable_scenes_the_partner_of_every_keyword_is_another_word() -> None:
    assert sorted([*CONFUSABLE.keywords, *CONFUSABLE.others]) == sorted(WORDS)
    phonemes = [["".join(sorted(word)) for word in part] for part in (CONFUSABLE.keywords, CONFUSABLE.others)]
    assert sorted(phonemes[0]) == sorted(phonemes[1])
    for index in range(10):
        scene = keyword_scene(8.0, 0, "test", index, CONFUSABLE)
        said = [stretch.sound for stretch in scene.plan if stretch.sound not in (NOISE, SILENCE)]
        assert [word for word in said if word in CONFUSABLE.keywords] == [CONFUSABLE.keywords[scene.label]]
        assert 1 <= len(said) - 1 <= 4


def test_the_data_module_makes_confusable_scenes_when_asked(cache: Path) -> None:
    data = source(cache, confusable=True)
    data.setup()
    assert data.classes == list(CONFUSABLE.keywords)
    made = numbered_scene(MIN_SECONDS, 0, ("test", 2), CONFUSABLE)
    assert torch.equal(data.load(data.clips["test"][2]), torch.from_numpy(made.samples.astype(np.float32) / 32768))


def test_stretches_lie_within_the_scene_and_never_overlap(scenes: list[KeywordScene]) -> None:
    for scene in scenes:
        assert len(scene.speech) == len(scene.bursts) == len(scene.background) == 8 * SCENE_RATE
        end = 0
        for stretch in scene.plan:
            assert stretch.start >= end
            assert stretch.length > 0.15 * SCENE_RATE
            end = stretch.start + stretch.length
        assert end <= 8 * SCENE_RATE


def test_sound_is_where_the_plan_says(scenes: list[KeywordScene]) -> None:
    kinds = set()
    for scene in scenes:
        spoken, noisy, heard = (np.zeros(8 * SCENE_RATE, bool) for _ in range(3))
        heard[:] = True
        for sound, start, length in scene.plan:
            here = slice(start, start + length)
            kinds.add(sound)
            if sound == SILENCE:
                heard[here] = False
            else:
                (noisy if sound == NOISE else spoken)[here] = True
        assert not scene.speech[~spoken].any()
        assert np.count_nonzero(scene.speech[spoken]) >= 0.99 * np.count_nonzero(spoken)
        assert not scene.bursts[~noisy].any()
        assert np.count_nonzero(scene.bursts[noisy]) >= 0.99 * np.count_nonzero(noisy)
        assert not scene.background[~heard].any()
        assert np.count_nonzero(scene.background[heard]) >= 0.99 * np.count_nonzero(heard)
    assert {NOISE, SILENCE} < kinds


def test_a_keyword_may_come_anywhere(scenes: list[KeywordScene]) -> None:
    starts = np.array([s.start / SCENE_RATE for scene in scenes for s in scene.plan if s.sound in KEYWORDS])
    assert starts.min() < 2.0
    assert starts.max() > 6.0
    assert starts.mean() == pytest.approx(3.75, abs=1.0)  # half of what a word of 0.5 s leaves of 8 s


def test_the_recorded_snr_is_the_measured_one_for_every_word(scenes: list[KeywordScene]) -> None:
    for scene in scenes:
        heard = np.ones(len(scene.background), bool)
        for sound, start, length in scene.plan:
            heard[start : start + length] &= sound != SILENCE
        for sound, start, length in scene.plan:
            if sound in WORDS:
                word = power(scene.speech[start : start + length])
                measured = 10 * np.log10(word / power(scene.background[heard]))
                assert measured == pytest.approx(scene.snr_db, abs=0.01)
    assert len({scene.snr_db for scene in scenes}) == 20
    assert all(SNR_RANGE[0] <= scene.snr_db <= SNR_RANGE[1] for scene in scenes)


def test_a_scene_is_a_function_of_length_seed_split_and_index() -> None:
    first = numbered_scene(MIN_SECONDS, 0, ("train", 7))
    numbered_scene(MIN_SECONDS, 0, ("val", 3))
    speaker.cache_clear()
    again = numbered_scene(MIN_SECONDS, 0, ("train", 7))
    assert np.array_equal(first.samples, again.samples)
    assert first[1:] == again[1:]
    changes = [(MIN_SECONDS, 1, ("train", 7)), (MIN_SECONDS, 0, ("test", 7)), (MIN_SECONDS, 0, ("train", 17))]
    for changed in [numbered_scene(*change) for change in changes]:
        assert changed.label == first.label
        assert changed.snr_db != first.snr_db
        assert not np.array_equal(changed.samples, first.samples)


def test_no_sample_is_cut_and_a_silence_is_zero(scenes: list[KeywordScene]) -> None:
    for index, scene in enumerate(scenes):
        mixed = scene.speech + scene.bursts + scene.background
        assert 0.02 < np.abs(mixed).max() < 0.991
        if index < 5:
            samples = numbered_scene(8.0, 0, ("test", index)).samples
            assert np.abs(samples - mixed * 32767).max() < 0.51
            assert not any(samples[s.start : s.start + s.length].any() for s in scene.plan if s.sound == SILENCE)


def test_halving_keeps_what_lies_below_four_kilohertz_and_nothing_above() -> None:
    def tone(hertz: float, rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * hertz * np.arange(rate) / rate) * np.hanning(rate)

    for hertz in (200.0, 3950.0):
        assert halved(tone(hertz, 16_000))[:7900] == pytest.approx(tone(hertz, 8_000)[:7900], abs=1e-3)
    assert np.abs(halved(tone(4050.0, 16_000))).max() < 1e-3


def test_the_data_module_tells_labels_facts_and_lengths(cache: Path) -> None:
    data = source(cache)
    data.setup()
    assert data.classes == list(KEYWORDS)
    assert {split: len(clips) for split, clips in data.clips.items()} == SMALL
    third = data.clips["test"][2]
    made = numbered_scene(MIN_SECONDS, 0, ("test", 2))
    assert third.name == f"test/{KEYWORDS[2]}_00002"
    assert third.label == made.label == 2
    assert third.num_samples == len(made.samples) == MIN_SECONDS * SCENE_RATE
    assert third.facts == {"speaker": f"test_{made.speaker:02d}", "snr_db": made.snr_db}
    assert torch.equal(data.load(third), torch.from_numpy(made.samples.astype(np.float32) / 32768))


def test_nobody_speaks_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Speaker] = []

    def overheard(*key: Any) -> Speaker:
        heard.append(speaker(*key))
        return heard[-1]

    monkeypatch.setattr("hopscotch.data.synthetic.scenes.speaker", overheard)
    pitches = []
    for split in SPLITS:
        heard.clear()
        spoken_by = {keyword_scene(MIN_SECONDS, 0, split, index).speaker for index in range(4)}
        pitches.append({person.pitch for person in heard})
        assert len(pitches[-1]) == len(spoken_by)  # one voice a scene, the recorded one
        assert pitches[-1] == {speaker(0, split, number).pitch for number in spoken_by}
    assert len(set.union(*pitches)) == sum(map(len, pitches))


@pytest.mark.parametrize(("cache_gib", "kept"), [(0.003, "memory"), (0.002, "nowhere")])
def test_scenes_are_decoded_once_where_they_fit_and_on_demand_where_not(
    cache: Path, cache_gib: float, kept: str
) -> None:
    data = source(cache, cache_gib=cache_gib)  # 15 scenes of 5 s: 0.0022 GiB
    data.setup()
    assert data.summary()["kept"] == [kept]
    batches = list(data.test_dataloader())
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == [0, 1, 2]
    assert batches[0].waveform.shape == (3, MIN_SECONDS * SCENE_RATE)


@pytest.mark.filterwarnings("ignore:.*exists and is not empty:UserWarning")
def test_the_configuration_builds_and_steps_once(cache: Path, tmp_path: Path) -> None:
    counts = [f"data.num_{split}={count}" for split, count in SMALL.items()]
    few = [*counts, "data.scene_seconds=5", f"data.cache_dir={cache}", "data.batch_size=2"]
    cfg = compose(["data=synthetic_scenes", *few, *TINY_MODEL, *TINY_RUN, "trainer.max_steps=1"])
    cfg.run_dir = str(tmp_path)
    task, data = build(cfg)
    assert OmegaConf.select(cfg, "frontend.sample_rate") == data.sample_rate == SCENE_RATE
    assert classifier(task.model).out_features == 10
    before = classifier(task.model).weight.clone()
    assert fit(cfg, built=(task, data)).global_step == 1
    assert not torch.equal(before, classifier(task.model).weight)


def test_a_wrong_length_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"data\.scene_seconds must be at least 5, got 4"):
        compose(["data=synthetic_scenes", "data.scene_seconds=4"])


def test_another_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.sample_rate must be 8000 for data=synthetic_scenes, got 16000"):
        source(tmp_path, sample_rate=16_000)
