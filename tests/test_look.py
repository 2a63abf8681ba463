"""look.py: the page shows what training would get, with what was drawn for it, and is a function of the words."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hopscotch.build import build_data
from hopscotch.cli import main
from hopscotch.config.compose import compose
from hopscotch.data.clips import Batches, ClipStore
from hopscotch.look import look
from tests.tiny import tiny_folder, write_tone
from tests.word_streams import write_background, write_words

SPEAKERS = "augment=speakers"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a folder of noise and one of rooms."""
    root = tmp_path_factory.mktemp("recordings")
    write_tone(root / "noise" / "<hum>.wav", 100, 0.4)
    write_tone(root / "rooms" / "hall.wav", 900, 0.05)
    return [f"augment.noise={root / 'noise'}", f"augment.impulse_responses={root / 'rooms'}"]


def rows_of(page: str) -> list[list[str]]:
    """The cells of the rows, as HTML."""
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>(<td.*?)</tr>", page)]


def heard(cell: str) -> np.ndarray:
    (content,) = re.findall(r"data:audio/wav;base64,([^\"]+)", cell)
    return soundfile.read(io.BytesIO(base64.b64decode(content)))[0]


def test_each_clip_is_shown_as_it_is_and_as_two_epochs_get_it(tones: Path, tmp_path: Path, folders: list[str]) -> None:
    words = [*tiny_folder(tones), SPEAKERS, *folders]
    page = look(words, tmp_path / "made" / "look.html", 100).read_text(encoding="utf-8")
    data = build_data(compose(words))
    data.setup("validate")
    clips, rows = data.clips["train"], rows_of(page)
    assert len(rows) == len(clips) == 15
    store = ClipStore(clips, data.load)
    for index, (clip, (label, name, seconds, *versions)) in enumerate(zip(clips, rows, strict=True)):
        assert isinstance(clip.label, int)
        assert (label, name) == (data.classes[clip.label], clip.name)
        assert seconds == f"{clip.num_samples / 8000:.2f}"
        for cell, augment, epoch in zip(versions, (None, data.augment, data.augment), (0, 0, 1), strict=True):
            wanted = Batches(store, 0, augment).__getitems__([(epoch, index)]).waveform[0]
            wanted /= wanted.abs().max().clamp(min=1.0)
            np.testing.assert_allclose(heard(cell), wanted.numpy(), atol=1e-4)
            assert cell.count("data:image/png") == 1


def test_what_was_drawn_is_said(tones: Path, tmp_path: Path, folders: list[str]) -> None:
    sure = [
        "noise_probability=1.0",
        "noise_snr_db=[12.0,12.0]",
        "impulse_probability=1.0",
        "gain_db=0.0",
        "speeds=[1.1]",
    ]
    words = [*tiny_folder(tones), *folders, *(f"augment.waveform.{word}" for word in sure)]
    page = look([*words, "augment.waveform.silence_probability=1.0"], tmp_path / "look.html", 1).read_text()
    ((*_, plain, first, second),) = rows_of(page)
    assert "<div>" not in plain
    for cell in (first, second):
        speed, silence, room, noise = re.findall(r"<div>(.*?)</div>", cell)
        assert speed == "speed 1.1, gain +0.0 dB"
        assert re.fullmatch(r"silence \d+ ms before, \d+ ms after", silence)
        assert room == "in hall.wav"
        assert noise == "noise at 12 dB, &lt;hum&gt;.wav"


def test_the_same_words_make_the_same_page_and_another_seed_another(tones: Path, tmp_path: Path) -> None:
    words = [*tiny_folder(tones), SPEAKERS]
    pages = [look([*words, *more], tmp_path / "look.html", 3).read_bytes() for more in ([], [], ["seed=1"])]
    assert pages[0] == pages[1]
    assert rows_of(pages[0].decode()) != rows_of(pages[2].decode())
    assert len(rows_of(pages[0].decode())) == 3


def test_without_augmentation_versions_are_the_clip_and_the_page_says_so(tones: Path, tmp_path: Path) -> None:
    page = look([*tiny_folder(tones), "augment=none"], tmp_path / "look.html", 2).read_text()
    assert "This configuration augments nothing." in page
    for *_, plain, first, second in rows_of(page):
        assert plain == first == second


def test_masks_are_shown_without_any_change_of_the_waveform(tones: Path, tmp_path: Path) -> None:
    page = look([*tiny_folder(tones), "augment.waveform=null"], tmp_path / "look.html", 2).read_text()
    assert "augments nothing" not in page
    for *_, plain, first, second in rows_of(page):
        assert len({plain, first, second}) == 3
        assert np.array_equal(heard(plain), heard(first))


def test_a_clip_that_cannot_be_read_is_named_in_its_place(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for split in ("train", "val", "test"):
            write_tone(tmp_path / "data" / split / label / "x.wav", 300, 0.1)
    silent = tmp_path / "data" / "train" / "a" / "x.wav"
    soundfile.write(silent, np.zeros(800), 8000)
    rows = rows_of(look(tiny_folder(tmp_path / "data"), tmp_path / "look.html").read_text())
    assert (
        rows[0][3]
        == f"<div>Audio file {silent}: must not be silent, got 800 frames of zeros only, the channels averaged.</div>"
    )
    assert "audio/wav" in rows[1][3]


def test_the_verb_writes_the_page_that_out_names_and_prints_it(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["look", *tiny_folder(tones), "clips=2", "out=page.html"])
    assert capsys.readouterr().out == "page.html\n"
    assert len(rows_of((tmp_path / "page.html").read_text())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips=0"], "clips must be a whole number, at least 1, got 0."),
        (["clips=many"], "clips must be a whole number, at least 1, got many."),
        (["augment.waveform.speed=[1]"], "Did you mean augment.waveform.speeds?"),
        (["data=folder"], "data.root must be given, it has no default: add data.root=<value>"),
        (["augment.noise=nowhere"], "augment.noise must be a folder, got"),
    ],
)
def test_a_wrong_word_of_the_verb_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["look", *words])
    assert message in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


def test_streams_are_shown_with_their_events_where_augmentation_moves_them(tmp_path: Path) -> None:
    write_words(tmp_path / "words")
    write_background(tmp_path / "noise")
    words = [
        *("task=detect", "data=streams"),
        f"data.clips.root={tmp_path / 'words'}",
        f"data.background.root={tmp_path / 'noise'}",
        *("data.sample_rate=8000", "data.seconds=5", "data.num_train=1", "data.events_per_minute=36"),
        *("augment.waveform.speeds=[1.25]", "augment.waveform.silence_probability=0"),
    ]
    ((label, name, seconds, plain, first, _),) = rows_of(look(words, tmp_path / "look.html").read_text())
    data = build_data(compose(words))
    data.setup("validate")
    events = data.clips["train"][0].events
    assert events
    assert (name, seconds) == ("train/00000", "5.00")
    assert label == ", ".join(dict.fromkeys(data.classes[one.label] for one in events))
    for cell, speed in ((plain, 1.0), (first, 1.25)):
        told = [line for line in re.findall(r"<div>(.*?)</div>", cell) if " to " in line]
        assert told == [
            f"{one.start / 8000 / speed:.2f} to {one.end / 8000 / speed:.2f} s: {data.classes[one.label]}"
            for one in events
        ]
        places = re.findall(r'<i title="(.*?)" style="[^"]*left:([\d.]+)%;width:([\d.]+)%', cell)
        assert [title for title, *_ in places] == [data.classes[one.label] for one in events]
        assert [float(left) for _, left, _ in places] == pytest.approx([one.start / 400 for one in events], abs=0.02)
        assert len(heard(cell)) == round(5 * 8000 / speed)


def test_recordings_with_label_files_are_shown_with_their_events(tmp_path: Path) -> None:
    for number in range(6):
        write_tone(tmp_path / "own" / f"{number}.wav", 300, 2.0)
        track = "0.500000\t1.250000\tbark\n1.000000\t1.500000\thum\n" if number != 3 else ""
        (tmp_path / "own" / f"{number}.txt").write_text(track, encoding="utf-8")
    words = ["task=detect", "data=events", f"data.root={tmp_path / 'own'}", "data.sample_rate=8000", "augment=none"]
    rows = rows_of(look(words, tmp_path / "look.html").read_text())
    shown = {name: re.findall(r"<div>(.*?)</div>", plain) for _, name, _, plain, *_ in rows}
    assert len(rows) > 2
    for name, lines in shown.items():
        told = [line for line in lines if " to " in line]
        assert told == ([] if name == "3.wav" else ["0.50 to 1.25 s: bark", "1.00 to 1.50 s: hum"])
