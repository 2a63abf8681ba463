"""recordings.py: noise and rooms from a folder are what the files hold, and each draw is a function of its numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hopscotch.build import build_data
from hopscotch.config.absent import refuse_absent_paths
from hopscotch.data import recordings
from hopscotch.data.audio import AudioFileError, read_clip
from hopscotch.data.augment import in_room
from hopscotch.data.recordings import Recordings
from hopscotch.types import AudioBatch, key_bits, valid_mask
from tests.test_augment import FULL, RATE, augment
from tests.tiny import tiny_config


def write(path: Path, samples: np.ndarray, rate: int = RATE, **form: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **form)
    return path


def hiss(num: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(num)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """One second, a tenth at another rate and in stereo, and files that are none."""
    write(tmp_path / "noise" / "long.wav", hiss(RATE))
    write(tmp_path / "noise" / "below" / "short.flac", hiss(9600, 1).reshape(4800, 2), 48_000)
    for name in ("LICENSE", "notes.txt", ".hidden.wav"):
        (tmp_path / "noise" / name).write_text("no audio")
    return tmp_path / "noise"


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    tail = hiss(800) * np.exp(-np.arange(800) / 200)
    tail[40] = 1.0  # the direct path, after 5 ms
    write(tmp_path / "rooms" / "hall.wav", tail)
    return tmp_path / "rooms"


@pytest.mark.parametrize("kept", [2**22, 0])
def test_a_part_is_a_slice_of_the_recording_at_the_rate_of_the_data(
    noise: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "KEPT_SAMPLES", kept)
    found = Recordings("augment.noise", str(noise), 4000)
    assert [found.name(chosen) for chosen in (0.0, 0.49, 0.5, 0.99)] == ["long.wav"] * 2 + ["below/short.flac"] * 2
    whole = read_clip(noise / "long.wav", 4000)
    assert found.lengths == [4000, 400]
    for begin, start in ((0.0, 0), (0.5, 1750), (1 - 2**-24, 3500)):
        torch.testing.assert_close(found.part(0.2, begin, 500), whole[start : start + 500], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.whole(0.7), read_clip(noise / "below" / "short.flac", 4000))


def test_a_short_recording_is_repeated(noise: Path) -> None:
    found, short = Recordings("augment.noise", str(noise), RATE), read_clip(noise / "below" / "short.flac", RATE)
    part = found.part(0.9, 0.25, 1900)
    assert len(short) == 800
    assert torch.equal(part, torch.cat([short, short, short, short])[200:2100])


def test_a_long_recording_is_read_where_it_is_drawn_and_nowhere_else(
    noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    decode = recordings.read_part

    def counted(path: Path, rate: int, start: int, num: int, **options: bool) -> Tensor:
        read.append(num)
        return decode(path, rate, start, num, **options)

    monkeypatch.setattr(recordings, "KEPT_SAMPLES", 1000)  # of the short one alone
    monkeypatch.setattr(recordings, "read_part", counted)
    monkeypatch.setattr(recordings, "read_clip", read_clip)
    found = Recordings("augment.noise", str(noise), RATE)
    monkeypatch.setattr(recordings, "read_clip", lambda *_: pytest.fail("a whole recording is decoded"))
    found.part(0.1, 0.5, 300)
    found.part(0.9, 0.5, 300)
    found.part(0.9, 0.5, 3000)
    assert read == [300]


BAD = {
    "silent.wav": ("must not be silent, got 800 frames of zeros", lambda path: write(path, np.zeros(800))),
    "text.wav": ("libsndfile cannot read it", lambda path: path.write_text("no audio")),
    "nan.wav": ("samples must be finite, got 800 NaN", lambda path: write(path, np.full(800, np.nan), subtype="FLOAT")),
    "cut.wav": (
        "is cut: its header promises",
        lambda path: path.write_bytes(write(path, hiss(800)).read_bytes()[:900]),
    ),
    "empty.wav": ("must hold at least one frame, got 0", lambda path: write(path, hiss(0))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_recording_that_cannot_be_used_is_named_with_key_and_rule(noise: Path, name: str) -> None:
    rule, make = BAD[name]
    make(noise / name)
    with pytest.raises(ValueError, match="must hold recordings that can be used, got 1 that cannot: ") as caught:
        Recordings("augment.noise", str(noise), RATE)
    message = str(caught.value)
    assert message.startswith("augment.noise must")
    assert rule in message
    assert str(noise / name) in message
    assert "\n" not in message


def test_many_bad_recordings_are_counted_and_a_few_named(noise: Path) -> None:
    for i in range(9):
        write(noise / f"{i}.wav", np.zeros(10))
    with pytest.raises(ValueError, match=r"got 9 that cannot: .*0\.wav.* And 4 more\.") as caught:
        Recordings("noise", str(noise), RATE)
    assert str(caught.value).count("must not be silent") == 5


def test_a_recording_that_is_found_bad_later_is_named_with_its_key(
    noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "KEPT_SAMPLES", 0)
    found = Recordings("augment.noise", str(noise), RATE)
    write(noise / "long.wav", np.full(RATE, np.nan), subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"^augment\.noise: Audio file .*long\.wav: samples must be finite"):
        found.part(0.0, 0.0, 100)


def test_a_folder_without_recordings_and_one_that_is_not_there_are_named(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").touch()
    with pytest.raises(ValueError, match=r"augment\.noise must be a folder with recordings in it, got .*empty: there"):
        Recordings("augment.noise", str(tmp_path / "empty"), RATE)
    for key in ("augment.noise", "augment.impulse_responses"):
        cfg = tiny_config(tones, tmp_path, f"{key}={tmp_path}/none")
        with pytest.raises(ValueError, match=rf"{key} must be a folder, got {tmp_path}/none, which does not exist\."):
            refuse_absent_paths(cfg)


def test_an_impulse_response_of_many_seconds_is_none(noise: Path) -> None:
    with pytest.raises(ValueError, match=r"got 1 that cannot: long\.wav of 1 s, more than 0\.5 s\."):
        Recordings("augment.impulse_responses", str(noise), RATE, longest=0.5)


# In augmentation.


def mixed(noise: Path | None = None, rooms: Path | None = None) -> dict[str, Recordings]:
    folders = {"noise": noise, "impulse_responses": rooms}
    return {key: Recordings(key, str(folder), RATE) for key, folder in folders.items() if folder is not None}


def batch_of(num: int) -> tuple[Tensor, Tensor, Tensor]:
    lengths = [700 + 61 * i % 900 for i in range(num)]
    clips = [torch.from_numpy(hiss(length, i)).float() for i, length in enumerate(lengths)]
    keys = torch.tensor([key_bits(0, 0, i) for i in range(num)])
    return pad_sequence(clips, batch_first=True), torch.tensor(lengths), keys


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_recorded_noise_has_exactly_the_asked_level_and_is_of_the_drawn_recording(noise: Path, snr_db: float) -> None:
    waveform, lengths, keys = batch_of(12)
    noisy = augment(noise_probability=1.0, noise_snr_db=[snr_db, snr_db], **mixed(noise))
    result, _ = noisy(waveform.clone(), lengths, keys)
    added, drawn = result - waveform, noisy.draw(keys)
    ratio = 10 * (waveform.square().sum(1) / added.square().sum(1)).log10()
    torch.testing.assert_close(ratio, torch.full((12,), snr_db), rtol=0, atol=1e-2)
    assert added[~valid_mask(lengths, added.shape[1])].abs().max() == 0
    names = set()
    for row, (chosen, begin) in enumerate(drawn.recorded.tolist()):
        length = int(lengths[row])
        part = Recordings("noise", str(noise), RATE).part(chosen, begin, length)
        assert torch.corrcoef(torch.stack([part, added[row, :length]]))[0, 1] > 0.999
        names.add(noisy.recordings[0].name(chosen))
    assert names == {"long.wav", "below/short.flac"}


def test_a_part_of_silence_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "noise" / "pause.wav", np.concatenate([np.zeros(40_000), hiss(1)]))
    waveform, lengths, keys = batch_of(3)
    result, _ = augment(noise_probability=1.0, **mixed(tmp_path / "noise"))(waveform.clone(), lengths, keys)
    assert torch.equal(result, waveform)


def test_a_room_is_the_convolution_with_its_response_from_the_direct_path_on_at_the_same_level(rooms: Path) -> None:
    response, clip = read_clip(rooms / "hall.wav", RATE), torch.from_numpy(hiss(900, 5)).float()
    slow = np.convolve(clip.double(), response.double())[40 : 40 + 900]
    slow *= np.sqrt(float(clip.double().square().sum()) / np.square(slow).sum())
    torch.testing.assert_close(in_room(clip, response).double(), torch.from_numpy(slow), rtol=0, atol=1e-5)


def test_a_click_comes_out_where_it_was_and_a_lone_direct_path_changes_nothing() -> None:
    click = torch.zeros(500)
    click[123] = 0.5
    response = torch.zeros(300)
    response[[77, 200]] = torch.tensor([-0.9, 0.3])
    assert in_room(click, response).abs().argmax() == 123
    alone = torch.zeros(300)
    alone[77] = 0.2
    torch.testing.assert_close(in_room(click, alone), click, rtol=0, atol=1e-6)
    assert torch.equal(in_room(torch.zeros(50), response), torch.zeros(50))  # silence stays silent


def test_rooms_fall_on_the_asked_share_of_clips(rooms: Path) -> None:
    waveform, lengths, keys = torch.rand(400, 60), torch.full((400,), 60), batch_of(400)[2]
    result, _ = augment(impulse_probability=0.3, **mixed(rooms=rooms))(waveform.clone(), lengths, keys)
    assert ((result != waveform).any(1).float().mean() - 0.3).abs() < 0.07


def test_a_clip_is_mixed_alike_whatever_its_neighbours(noise: Path, rooms: Path) -> None:
    waveform, lengths, keys = batch_of(16)
    change = augment(**FULL, **mixed(noise, rooms))
    together, new_lengths = change(waveform, lengths, keys)
    for i in range(16):
        alone, length = change(waveform[i : i + 1, : lengths[i]], lengths[i : i + 1], keys[i : i + 1])
        assert length == new_lengths[i]
        torch.testing.assert_close(together[i, :length], alone[0], atol=1e-6, rtol=1e-5)


def test_folders_leave_every_other_draw_as_it_was(noise: Path, rooms: Path) -> None:
    keys = batch_of(50)[2]
    plain, with_folders = augment(**FULL).draw(keys), augment(**FULL, **mixed(noise, rooms)).draw(keys)
    for name in ("speed", "before", "after", "gain_db", "is_noisy", "snr_db", "colour"):
        assert torch.equal(getattr(plain, name), getattr(with_folders, name))
    assert not plain.is_in_room.any()
    assert with_folders.is_in_room.any()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("kept", [2**22, 0])
def test_batches_are_bit_identical_with_any_number_of_workers_and_in_or_out_of_memory(
    tones: Path, tmp_path: Path, noise: Path, rooms: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "KEPT_SAMPLES", kept)
    folders = [f"augment.noise={noise}", f"augment.impulse_responses={rooms}"]

    def batches(*words: str) -> list[AudioBatch]:
        data = build_data(tiny_config(tones, tmp_path, "augment=speakers", *words))
        data.setup("fit")
        return list(data.train_dataloader())

    def same(one: AudioBatch, other: AudioBatch) -> bool:
        return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))

    alone = batches(*folders)
    assert len(alone) == 4
    assert not any(map(same, alone, batches()))
    for words in (["data.num_workers=1"], ["data.num_workers=4"], ["data.num_workers=1", "data.cache_gib=0.0"]):
        assert all(map(same, alone, batches(*folders, *words)))


def test_clips_that_are_recordings_too_are_named(tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = build_data(tiny_config(tones, tmp_path, f"augment.noise={tones / 'low'}"))
    data.setup("validate")
    assert "data: 7 clips are recordings of augment.noise, too: low/" in caplog.text
    assert "(test)" in caplog.text


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["augment.waveform=null"], "augment.waveform is null"),
        (["augment.waveform.noise_probability=0.0"], r"augment\.waveform\.noise_probability is 0\.0"),
    ],
)
def test_a_folder_that_no_clip_is_mixed_with_is_warned_of(
    tones: Path, tmp_path: Path, noise: Path, words: list[str], rule: str
) -> None:
    with pytest.warns(UserWarning, match=rf"augment\.noise=.*noise has no effect: {rule}\."):
        assert build_data(tiny_config(tones, tmp_path, f"augment.noise={noise}", *words)).clips == {}
