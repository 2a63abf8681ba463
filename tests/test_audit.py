"""hopscotch audit: what is wrong with data is named with its kind, and what is not wrong is not."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hopscotch import audit
from hopscotch.audit import Audit
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.folder import Folder
from hopscotch.data.manifest import Manifest
from hopscotch.data.synthetic.source import SyntheticWords
from tests.row_sources import COMMON, RATE, add, source
from tests.word_streams import words_in_noise

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten clips of two classes for training, one of each in the other splits: nothing to find."""
    for name in ("cat", "dog"):
        for number in range(10):
            add(tmp_path / "data" / "train" / name / f"{number}.wav", 0.1)
        add(tmp_path / "data" / "val" / name / "0.wav", 0.1)
        add(tmp_path / "data" / "test" / name / "0.wav", 0.1)
    return tmp_path / "data"


def findings(data: AudioDataModule) -> dict[str, list[str]]:
    return {finding.kind: list(finding.names) for finding in Audit(data).findings()}


def put(root: Path, name: str, samples: Any, rate: int = RATE, coding: str = "FLOAT") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples), rate, subtype=coding)
    return path


def test_data_without_a_fault_have_none(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert audit.main(["data=folder", f"data.root={root}", f"data.sample_rate={RATE}", f"out={out}"]) == 0
    told = json.loads((out / "audit.json").read_text())
    assert told["findings"] == []
    assert told["clips"] == {"train": 20, "val": 2, "test": 2}
    assert told["seconds"] == {"train": 2.0, "val": 0.2, "test": 0.2}
    assert told["classes"]["dog"] == {"train": 10, "val": 1, "test": 1}
    assert (told["formats"], told["rates"], told["channels"]) == ({"WAV PCM_16": 24}, {"8000": 24}, {"1": 24})
    assert told["seconds_of_a_clip"] == dict.fromkeys(audit.QUANTILES, 0.1)
    assert told["rms_db"]["half"] == pytest.approx(10 * np.log10(1 / 12), abs=0.2)
    page = (out / "index.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert "<script src" not in page
    assert len((out / "clips.csv").read_text().splitlines()) == 25
    assert "24: 20 train, 2 val, 2 test" in capsys.readouterr().out


# Each kind of fault: a file or more that are added, and what is then found, and nothing else.
SINE = np.sin(2 * np.pi * 300 * np.arange(4000) / RATE)
QUIET_END = np.concatenate([NOISE[:400], 1e-5 * NOISE[:3600]])
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "clipped": ({"train/cat/odd.wav": np.clip(3 * SINE, -1, 1)}, "clipped clips, at least 0.1% of their samples at f"),
    "anti-phase": (
        {"train/cat/odd.wav": np.stack([NOISE, -NOISE + 4e-3 * SINE], axis=1)},
        "channels that cancel each other (anti-phase)",
    ),
    "mostly silent": ({"train/cat/odd.wav": QUIET_END}, "mostly silent clips, over 80% of their frames below -60 dB"),
    "offset": ({"train/cat/odd.wav": 0.5 * NOISE + 0.05}, "DC offsets of at least 1% of full scale"),
    "short": ({"train/cat/odd.wav": NOISE[:100]}, "clips shorter than a frame of 0.025 s"),
    "silent": ({"train/cat/odd.wav": np.zeros(4000)}, "silent clips"),
    "unreadable": ({"train/cat/odd.wav": None}, "unreadable or lying files"),
    "twice": ({"train/cat/odd.wav": NOISE, "train/cat/b.wav": NOISE}, "equal sounds in one split"),
    "both sides": ({"train/cat/odd.wav": NOISE, "test/cat/b.wav": NOISE}, "equal sounds in two splits"),
    "near names": (
        {f"{split}/{name}/{split}{number}.wav": np.roll(NOISE, 10 * number + len(name + split))
         for split in SPLITS for name in ("Cat ",) for number in range(10)},
        "names of classes that are nearly the same",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_a_fault_is_found_under_its_name_alone(root: Path, kind: str) -> None:
    files, told = ODD[kind]
    for name, samples in files.items():
        if samples is None:
            (root / name).write_text("no audio")
        else:
            put(root, name, samples)
    ((found, names),) = findings(source(Folder, root=str(root))).items()
    assert found.startswith(told)
    assert len(names) == 1
    assert ("Cat " if kind == "near names" else "odd.wav") in names[0]


def test_a_sine_at_full_scale_is_not_clipped(root: Path) -> None:
    put(root, "train/cat/loud.wav", SINE * 32767 / 32768, coding="PCM_16")
    assert findings(source(Folder, root=str(root))) == {}


def test_equal_sound_is_found_in_another_format_and_under_another_label(root: Path) -> None:
    samples = (32_767 * NOISE).astype(np.int16)
    put(root, "train/cat/odd.wav", samples, coding="PCM_16")
    soundfile.write(root / "train" / "dog" / "same.flac", samples, RATE, subtype="PCM_16")
    found = findings(source(Folder, root=str(root)))
    assert found["equal sounds under different labels"] == ["train/cat/odd.wav (cat) = train/dog/same.flac (dog)"]


def test_what_stops_training_comes_first_and_training_stops_there(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(root, "train/cat/loud.wav", np.clip(3 * SINE, -1, 1))
    put(root, "train/cat/silent.wav", np.zeros(400))
    (root / "test" / "dog" / "link.wav").symlink_to(root / "train" / "dog" / "3.wav")
    data = source(Folder, root=str(root))
    kinds = [(finding.kind, finding.stops) for finding in Audit(data).findings()]
    assert kinds[:2] == [("silent clips", True), ("files in two splits by a link", True)]
    assert [stops for _, stops in kinds[2:]] == [False, False]
    with caplog.at_level(logging.CRITICAL), pytest.raises(ValueError, match="a file must be in one split alone"):
        source(Folder, root=str(root)).setup("fit")


def test_silence_is_no_fault_where_it_is_allowed(root: Path) -> None:
    put(root, "train/cat/silent.wav", np.zeros(400))
    found = Audit(source(Folder, root=str(root), silent_ok=True))
    assert found.findings() == []
    assert found.facts()["clips"]["train"] == 21


def test_groups_on_both_sides_and_rare_classes_are_named(tmp_path: Path) -> None:
    lines = []
    for number, (split, speaker) in enumerate([("train", "a"), ("train", "b"), ("test", "a"), ("val", "c")]):
        for label in ("x", "y"):
            add(tmp_path / f"{label}_{speaker}_{number}.wav", 0.1)
            lines.append((split, json.dumps({"audio_filepath": f"{label}_{speaker}_{number}.wav", "label": label})))
    for split in SPLITS:
        (tmp_path / f"{split}.json").write_text("\n".join(text for part, text in lines if part == split))
    manifests = {split: str(tmp_path / f"{split}.json") for split in SPLITS}
    found = Audit(source(Manifest, manifest=manifests, group_by=r"_(\w)_"))
    assert {finding.kind: finding.names for finding in found.findings()} == {
        "groups in training and in validation or test": ["a"],
        "classes with fewer than 10 training clips": ["x (2)", "y (2)"],
    }
    assert found.facts()["groups"] == {"train": 2, "val": 1, "test": 1}


def test_a_part_of_a_file_is_measured_alone(tmp_path: Path) -> None:
    put(tmp_path, "long.wav", np.concatenate([NOISE, np.ones(4000) * 0.5, np.roll(NOISE, 7)]), rate=16_000)
    entries = [("a", 0.0, 0.25), ("b", 0.25, 0.25), ("a", 0.5, 0.25)]
    text = [json.dumps({"audio_filepath": "long.wav", "label": x, "offset": o, "duration": d}) for x, o, d in entries]
    (tmp_path / "m.json").write_text("\n".join(text))
    found = Audit(source(Manifest, manifest={"train": str(tmp_path / "m.json")}))
    sounds = {clip.name: sound for _, clip, sound in found.sounds}
    assert [round(sound.seconds, 3) for sound in sounds.values()] == [0.25] * 3
    assert [sound.offset > 0.4 for sound in sounds.values()] == [False, True, False]


def test_a_source_that_makes_its_clips_has_no_files(tmp_path: Path) -> None:
    class Made(SyntheticWords):
        def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
            return ["a"], {split: [Clip(f"{split}/{i}", 0, 800) for i in range(12)] for split in SPLITS}

        def load(self, clip: Clip) -> torch.Tensor:
            seed = int.from_bytes(clip.name.encode()[-8:], "big")
            return torch.rand(800, generator=torch.Generator().manual_seed(seed)) - 0.5

    data = Made(
        num_train=12,
        num_val=12,
        num_test=12,
        corpus_seed=0,
        cache_dir=str(tmp_path),
        **{**COMMON, "sample_rate": 16_000},
    )
    facts = Audit(data).facts()
    assert not facts["has_files"]
    assert audit.headline(facts)["files"] == "none: the source makes its clips itself"
    assert facts["formats"] == {"made by the source": 36}


def test_recordings_with_events_are_audited_by_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Composed ones, and those with label files of which all validation recordings are empty."""
    sizes = ["data.num_train=10", "data.num_val=4", "data.num_test=4", "data.events_per_minute=48"]
    streams = [*words_in_noise(tmp_path), *sizes, "task=detect", "data.sample_rate=8000", f"out={tmp_path / 'streams'}"]
    assert audit.main(streams) == int("found" in (said := capsys.readouterr().out))
    assert "clips    18: 10 train, 4 val, 4 test" in said
    facts = json.loads((tmp_path / "streams" / "audit.json").read_text())
    assert set(facts["classes"]) == {"go", "no", "stop", "yes"}
    assert not [finding["kind"] for finding in facts["findings"] if finding["stops"]]
    for split, tracks in {"train": 10, "val": 2, "test": 2}.items():
        for number in range(tracks):
            add(tmp_path / "own" / split / f"{number}.wav", 1.0)
            track = "" if split == "val" else "0.2\t0.5\tbark\n"
            (tmp_path / "own" / split / f"{number}.txt").write_text(track, encoding="utf-8")
    own = ["data=events", f"data.root={tmp_path / 'own'}", "task=detect", f"out={tmp_path / 'events'}"]
    assert audit.main(own) == 1
    assert "2 validation without an event, by which thresholds are chosen (stops training)" in capsys.readouterr().out
    page = (tmp_path / "events" / "index.html").read_text()
    assert "bark" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=folder", "data.root=/nowhere"], "data.root must be a folder, got /nowhere, which does not exist."),
        (["data=table"], "data.table must be given"),
        (["data=foldr"], "foldr"),
        (["data.sample_rat=9"], "data.sample_rat"),
    ],
)
def test_what_cannot_be_read_at_all_is_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(words) == audit.UNREADABLE
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""


def test_names_are_shown_as_text_on_the_page(root: Path, tmp_path: Path) -> None:
    (root / "train" / "cat" / "<script>x\n.wav").write_text("no audio")
    words = ["data=folder", f"data.root={root}", f"out={tmp_path / 'out'}"]
    assert audit.main(words) == audit.FOUND
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;script&gt;x\\n.wav" in page
    assert "<script>x" not in page
