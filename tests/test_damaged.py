"""Damaged, odd and hostile files and manifests: each is used, or named with a reason, wherever audio is read."""

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hopscotch import audit
from hopscotch.data.audio import AudioFileError, count_samples, read_clip
from hopscotch.data.files import clip_name
from hopscotch.data.folder import Folder
from hopscotch.data.manifest import Manifest
from hopscotch.evaluate import evaluate
from hopscotch.predict import load
from hopscotch.report.clips import read_clips
from tests.damage import FORMATS, LINES, RATE, USED, Case, all_files, encoded, line
from tests.row_sources import add, source

pytestmark = pytest.mark.skipif("os.name == 'nt'", reason="names and kinds of files that Windows does not have")

CLASSES = ("high", "low", "middle")  # those of the run
ODD = "test/middle"
Fates = dict[str, str]  # the name of a clip -> USED, or what was said


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged") / "data"
    for split in ("train", "val", "test"):
        for name in CLASSES:
            add(root / split / name / "good.wav", 0.05)
    for name, case in all_files(root.parent).items():
        case.make(root / ODD / name)
    return root


@pytest.fixture(scope="module")
def cases(root: Path) -> dict[str, Case]:
    """The cases by the names of their clips."""
    return {clip_name(root / ODD / name, root): case for name, case in all_files(root.parent).items()}


def source_of(root: Path, **keys: Any) -> Folder:
    return source(Folder, root=str(root), sample_rate=RATE, max_bad=1.0, **keys)


@pytest.fixture(scope="module")
def trained_on(root: Path) -> Folder:
    """The data of a training that skips what is bad."""
    data = source_of(root, on_bad="skip")
    data.bad_audio = root.parent / "run" / "bad_audio.csv"
    data.setup("fit")
    return data


def assert_fates(found: Fates, cases: dict[str, Case], more: str = "") -> None:
    """Compare what became of each clip with its case; `more` are parts of reasons that do not count here."""
    assert found.keys() == cases.keys()
    expected = {name: USED if more and case.fate.startswith(more) else case.fate for name, case in cases.items()}
    wrong = {name: told for name, told in found.items() if (told == USED) != (expected[name] == USED)}
    assert wrong == {}
    assert {name: told for name, told in found.items() if expected[name] not in told} == {}


def fates(used: list[str], named: dict[str, str]) -> Fates:
    assert not set(used) & set(named)
    everything = dict.fromkeys(used, USED) | named
    return {name: told for name, told in everything.items() if not name.endswith("good.wav")}


def test_there_are_enough_of_them(cases: dict[str, Case]) -> None:
    assert len(cases) + len(LINES) > 200
    assert 40 < sum(case.fate == USED for case in cases.values()) < len(cases) - 100


def test_training_skips_and_counts_what_it_cannot_use(trained_on: Folder, cases: dict[str, Case]) -> None:
    assert_fates(fates([clip.name for clip in trained_on.clips["test"]], trained_on.skipped), cases)
    summary: Any = trained_on.summary()
    assert summary["clips"]["test"] + summary["bad"]["test"] == len(cases) + len(CLASSES)
    assert trained_on.bad_audio is not None
    with trained_on.bad_audio.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(trained_on.skipped)


def test_training_names_all_of_them_before_it_begins(root: Path, trained_on: Folder) -> None:
    data = source_of(root)
    data.bad_audio = root.parent / "refused" / "bad_audio.csv"
    with pytest.raises(AudioFileError, match=rf"^data: {len(trained_on.skipped)} bad files: ") as error:
        data.setup("fit")
    assert "\n" not in str(error.value)
    with data.bad_audio.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(trained_on.skipped)


def test_an_audit_names_them_and_its_counts_add_up(
    root: Path, cases: dict[str, Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=folder", f"data.root={root}", f"data.sample_rate={RATE}", f"out={tmp_path}"]
    assert audit.main(words) == audit.FOUND
    told = json.loads((tmp_path / audit.JSON).read_text())
    with (tmp_path / audit.CLIPS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    named = {finding["kind"]: finding["names"] for finding in told["findings"]}
    bad, silent = named["unreadable or lying files"], named["silent clips"]
    assert told["clips"]["test"] + told["bad"]["test"] == len(cases) + len(CLASSES)
    assert told["bad"]["test"] == len(bad) + len(silent) == sum(case.fate != USED for case in cases.values())
    assert len(rows) + len(bad) == len(cases) + 3 * len(CLASSES)
    assert sorted(silent) == sorted(name for name, case in cases.items() if case.fate == "must not be silent")
    assert all("Audio file " in words for words in bad)
    assert (tmp_path / audit.PAGE).stat().st_size > 10_000
    assert capsys.readouterr().out.endswith(f"{tmp_path / audit.PAGE}\n")


def test_an_evaluation_counts_them_beside_its_metric(
    root: Path, trained: Path, cases: dict[str, Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=folder", f"data.root={root}", "data.on_bad=skip", "data.max_bad=1"]
    folder = evaluate(trained, words, out=tmp_path)
    told = json.loads((folder / "metrics.json").read_text())["data"]
    used = [row.path for row in read_clips(folder / "clips.csv")]
    assert_fates(fates(used, told["skipped"]), cases)
    assert f"over {len(used)} clips, {told['bad']['test']} bad files left out)" in capsys.readouterr().out
    with (folder / "bad_audio.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == told["bad"]["test"]


def test_a_prediction_uses_or_names_each_of_them(root: Path, trained: Path, cases: dict[str, Case]) -> None:
    paths = [root / ODD / name for name in all_files(root.parent)]
    answers = list(load(trained).predict(paths))
    found = {clip_name(path, root): answer.error or USED for path, answer in zip(paths, answers, strict=True)}
    assert_fates(found, cases, more="must not be silent")
    silent = [
        clip_name(path, root) for path, a in zip(paths, answers, strict=True) if a.prediction and a.prediction.note
    ]
    assert sorted(silent) == sorted(name for name, case in cases.items() if case.fate == "must not be silent")


# Manifests.


def manifest_of(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.json").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return folder / "m.json"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    for number in range(13):
        add(folder / f"{number}.wav", 0.5)
    (folder / "sub").mkdir()
    return folder


GOOD_LINES = [line(audio_filepath=f"{number}.wav", label="cat" if number % 2 else "dog") for number in range(1, 13)]


def clips_of(manifest: Path) -> Manifest:
    data = source(Manifest, manifest=str(manifest), val_fraction=0.2, test_fraction=0.2, on_bad="skip", max_bad=1.0)
    data.classes, data.clips = data.find_clips()
    return data


def count(data: Manifest) -> tuple[int, int]:
    return sum(map(len, data.clips.values())), len(data.bad_files())


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_a_manifest_is_used_or_named(shared: Path, name: str) -> None:
    text, fate = LINES[name]
    path = manifest_of(shared, *GOOD_LINES, text)
    if fate in (USED, "bad"):
        data = clips_of(path)
        assert count(data) == (len(GOOD_LINES) + (fate == USED), int(fate == "bad"))
        assert all("m.json line 13" in str(error) for *_, error in data.bad_files())
    else:
        with pytest.raises(ValueError, match=re.escape(fate)) as error:
            clips_of(path)
        assert "m.json line 13" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "fate"),
    [
        (b"\xef\xbb\xbf" + "\n".join(GOOD_LINES).encode(), USED),
        ("\r\n".join(GOOD_LINES).encode() + b"\r\n", USED),
        ("\n\n\n".join(GOOD_LINES).encode() + b"\n\n", USED),
        (("\n".join(GOOD_LINES)[:-1] + ', "x": "' + "y" * 2_000_000 + '"}').encode(), USED),
        (b"", "must have a line for each clip, got none"),
        (b"\n \n", "must have a line for each clip, got none"),
        ("\n".join(GOOD_LINES).encode("utf-16"), "must be text in UTF-8"),
        ("\n".join(GOOD_LINES).replace("cat", "k\u00e4se").encode("latin-1"), "must be text in UTF-8"),
        ("\n".join(GOOD_LINES).encode() + b"\n\0\0\0", "m.json line 13: must be a JSON object"),
        ("\n".join([*GOOD_LINES, GOOD_LINES[3]]).encode(), "m.json line 13: 4.wav is there a second time"),
        (b"\x1f\x8b\x08" + bytes(range(256)), "must be text in UTF-8"),
        (b"[" + ",".join(GOOD_LINES).encode() + b"]", "m.json line 1: must be a JSON object"),
    ],
    ids=["bom", "crlf", "blanks", "huge", "empty", "blank", "utf16", "latin1", "zeros", "twice", "gzip", "array"],
)
def test_a_manifest_is_used_or_named(shared: Path, content: bytes, fate: str) -> None:
    (shared / "m.json").write_bytes(content)
    if fate == USED:
        assert count(clips_of(shared / "m.json")) == (len(GOOD_LINES), 0)
    else:
        with pytest.raises(ValueError, match=re.escape(fate)):
            clips_of(shared / "m.json")


def test_a_manifest_that_is_none_ends_an_audit_with_2(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = manifest_of(shared, *GOOD_LINES, "{")
    assert audit.main(["data=manifest", f"data.manifest={path}", f"out={tmp_path / 'out'}"]) == audit.UNREADABLE
    said = capsys.readouterr().err
    assert said == "Error: data: m.json line 13: must be a JSON object, it cannot be parsed.\n"
    assert not (tmp_path / "out").exists()


# Headers with single faults, and faults drawn at random.


def test_a_changed_bit_in_the_header_of_a_wav_is_named_or_changes_nothing(tmp_path: Path) -> None:
    data = encoded("wav", tmp_path)
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    expected, used = read_clip(path, RATE), 0
    for place in range(44):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                found = read_clip(path, RATE)
            except AudioFileError:
                continue
            used += 1
            assert torch.equal(found, expected), f"byte {place}, bit {bit}"
    assert 30 < used < 150, "of 352, most of those that are used have another size of the RIFF, which says nothing"


KINDS = ("set", "set", "flip", "remove", "insert", "zeros", "ones")


def mutated(data: bytes, draw: random.Random, first: int, most: int = 4, signs: range = range(256)) -> bytes:
    """Change, remove and insert up to `most` bytes among the first ones, by some of `signs`."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        place = draw.randrange(min(first, len(changed)))
        kind = draw.choice(("set", "insert", "remove") if signs != range(256) else KINDS)
        if kind == "set":
            changed[place] = draw.choice(signs)
        elif kind == "flip":
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == "remove":
            del changed[place]
        elif kind == "insert":
            changed.insert(place, draw.choice(signs))
        else:
            changed[place : place + 4] = (b"\0" if kind == "zeros" else b"\xff") * 4
    return bytes(changed)


def seeds(few: int, many: int) -> list[Any]:
    return [range(few), pytest.param(range(few, many), marks=pytest.mark.slow)]


@pytest.mark.parametrize("numbers", seeds(100, 2000), ids=["few", "many"])
def test_a_mutated_header_is_refused_or_read_as_it_says(tmp_path: Path, numbers: range) -> None:
    originals = [encoded(name, tmp_path) for name in FORMATS]
    path, named = tmp_path / "clip", 0
    for number in numbers:
        draw = random.Random(number)
        path.write_bytes(mutated(draw.choice(originals), draw, 120))
        try:
            clip = read_clip(path, RATE)
        except AudioFileError:
            named += 1
            continue
        assert len(clip) == count_samples(path, RATE)
        assert torch.isfinite(clip).all()
    assert 0.2 * len(numbers) < named < len(numbers)


@pytest.mark.parametrize("numbers", seeds(500, 3000), ids=["few", "many"])
def test_of_500_mutated_headers_of_a_wav_at_most_4_are_silently_wrong(tmp_path: Path, numbers: range) -> None:
    """One change each: more of them are named more often."""
    data, path = encoded("wav", tmp_path), tmp_path / "clip.wav"
    path.write_bytes(data)
    expected, wrong, named = read_clip(path, RATE), [], 0
    for number in numbers:
        path.write_bytes(mutated(data[:44], random.Random(number), 44, most=1) + data[44:])
        try:
            found = read_clip(path, RATE)
        except AudioFileError:
            named += 1
            continue
        wrong += [] if torch.equal(found, expected) else [number]
    assert len(wrong) <= 4 * len(numbers) / 500, wrong
    assert 0.7 * len(numbers) < named < len(numbers)


@pytest.mark.parametrize("numbers", seeds(50, 500), ids=["few", "many"])
def test_a_mutated_manifest_is_refused_or_every_line_counts(shared: Path, numbers: range) -> None:
    original, path, used = "\n".join(GOOD_LINES).encode(), shared / "m.json", 0
    for number in numbers:
        content = mutated(original, random.Random(number), len(original), most=1, signs=range(32, 127))
        path.write_bytes(content)
        try:
            data = clips_of(path)
        except ValueError:
            continue
        used += 1
        assert sum(count(data)) == sum(bool(text.strip()) for text in content.decode().split("\n"))
    assert 0 < used < len(numbers)


def test_a_folder_with_the_name_of_a_file_is_named_if_it_is_empty_and_read_if_it_is_not(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        add(tmp_path / name / "0.wav")
    (tmp_path / "cat" / "empty.wav").mkdir()
    (tmp_path / "cat" / "taken").mkdir()
    add(tmp_path / "cat" / "full.wav" / "inside.wav")
    soundfile.write(tmp_path / "dog" / "more.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 800), RATE)
    data = source(Folder, root=str(tmp_path), val_fraction=0.2, test_fraction=0.2)
    _, clips = data.find_clips()
    names = {clip.name for part in clips.values() for clip in part}
    assert names == {"cat/0.wav", "cat/full.wav/inside.wav", "dog/0.wav", "dog/more.flac"}
    assert [name for _, name, _ in data.bad_files()] == ["cat/empty.wav"]
