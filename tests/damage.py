"""Damaged, odd and hostile files and manifests, and what is to become of each: used, or named with a reason."""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

RATE = 8000
USED = "used"
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
SPEECH_LIKE = np.cumsum(SOUND) / np.abs(np.cumsum(SOUND)).max() * 0.5
FORMATS = {  # name -> format, type, and rate
    "wav": ("WAV", "PCM_16", RATE), "wavex": ("WAVEX", "PCM_24", RATE), "float": ("WAV", "FLOAT", RATE),
    "rf64": ("RF64", "PCM_16", RATE), "w64": ("W64", "PCM_16", RATE), "aiff": ("AIFF", "PCM_16", RATE),
    "au": ("AU", "PCM_16", RATE), "caf": ("CAF", "PCM_16", RATE), "nist": ("NIST", "PCM_16", RATE),
    "flac": ("FLAC", "PCM_16", RATE), "vorbis": ("OGG", "VORBIS", RATE), "opus": ("OGG", "OPUS", RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", RATE),
}  # fmt: skip


class Case(NamedTuple):
    """A file: how it is made at a path, and USED or a part of the reason why it cannot be."""

    make: Callable[[Path], object]
    fate: str


def encoded(name: str, folder: Path) -> bytes:
    kind, coding, rate = FORMATS[name]
    path = folder / "encoded"
    soundfile.write(path, SOUND, rate, format=kind, subtype=coding)
    content = path.read_bytes()
    path.unlink()
    return content


def sound(samples: Any, rate: int = RATE, kind: str = "WAV", coding: str = "FLOAT") -> Callable[[Path], object]:
    def make(path: Path) -> None:
        plain = path.parent / "made"  # soundfile takes no name that is not UTF-8
        soundfile.write(plain, np.asarray(samples), rate, format=kind, subtype=coding)
        plain.rename(path)

    return make


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def own(seed: int) -> np.ndarray:
    """Return noise that no other file has."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, 1000)


def patched(data: bytes, *patches: tuple[int, str, int]) -> bytes:
    """Write numbers into a header: their places, their form and values."""
    changed = bytearray(data)
    for place, form, value in patches:
        struct.pack_into("<" + form, changed, place, value)
    return bytes(changed)


def of_formats(folder: Path) -> dict[str, Case]:
    """Cut and wipe a file of every format."""
    found = {}
    for name in FORMATS:
        data = encoded(name, folder)
        for share in (0.3, 0.6, 0.95):
            found[f"{name}_cut_{share}"] = Case(content(data[: int(share * len(data))]), "")
        found[f"{name}_without_its_mark"] = Case(content(bytes(64) + data[64:]), "")
        found[f"{name}_of_zeros"] = Case(content(bytes(len(data))), "")
    return found


def of_headers(folder: Path) -> dict[str, Case]:
    """Lie in the header of a WAV: 16 bits, 8000 Hz, 8000 bytes of data at byte 44."""
    data = encoded("wav", folder)
    head, samples = data[:44], data[44:]
    fate: dict[str, tuple[bytes, str]] = {
        "channels_0": (patched(data, (22, "H", 0)), "libsndfile cannot read it"),
        "channels_2": (patched(data, (22, "H", 2)), "must not contradict itself, got 2 channels"),
        "channels_65535": (patched(data, (22, "H", 65535)), "must not contradict itself"),
        "rate_0": (patched(data, (24, "I", 0), (28, "I", 0)), "libsndfile cannot read it"),
        "rate_1": (patched(data, (24, "I", 1), (28, "I", 2)), "rate must lie in"),
        "rate_999": (patched(data, (24, "I", 999), (28, "I", 1998)), "rate must lie in"),
        "rate_768001": (patched(data, (24, "I", 768_001), (28, "I", 1_536_002)), "rate must lie in"),
        "rate_4e9": (patched(data, (24, "I", 4_000_000_000), (28, "I", 0)), "libsndfile cannot read it"),
        "rate_alone": (patched(data, (24, "I", 16_000)), "must not contradict itself, got 16000 Hz"),
        "bytes_a_second_0": (patched(data, (28, "I", 0)), USED),
        "bytes_a_second_9": (patched(data, (28, "I", 9)), "must not contradict itself"),
        "frame_0": (patched(data, (32, "H", 0)), USED),
        "frame_1": (patched(data, (32, "H", 1)), "must not contradict itself"),
        "bits_0": (patched(data, (34, "H", 0)), "libsndfile cannot read it"),
        "bits_8": (patched(data, (34, "H", 8)), "must not contradict itself, got 1 channels of 8 bits"),
        "bits_24": (patched(data, (34, "H", 24)), "must not contradict itself"),
        "bits_64": (patched(data, (34, "H", 64)), "must not contradict itself"),
        "tag_0": (patched(data, (20, "H", 0)), "libsndfile cannot read it"),
        "tag_a_law": (patched(data, (20, "H", 6)), "must not contradict itself"),
        "tag_mp3": (patched(data, (20, "H", 0x55)), "libsndfile cannot read it"),
        "tag_65535": (patched(data, (20, "H", 65535)), "libsndfile cannot read it"),
        "fmt_short": (patched(data, (16, "I", 4)), ""),
        "fmt_long": (patched(data, (16, "I", 1000)), ""),
        "fmt_huge": (patched(data, (16, "I", 2**32 - 1)), ""),
        "fmt_missing": (patched(data, (12, "I", 0x6B6E756A)), ""),
        "riff_0": (patched(data, (4, "I", 0)), USED),
        "riff_short": (patched(data, (4, "I", 100)), USED),
        "riff_long": (patched(data, (4, "I", 9000)), USED),
        "riff_unknown": (patched(data, (4, "I", 2**32 - 1)), USED),
        "data_0": (patched(data, (40, "I", 0)), "header promises 0 bytes of audio"),
        "data_short": (patched(data, (40, "I", 1000)), "header promises 1000 bytes of audio, but 7000 bytes follow"),
        "data_short_before_silence": (
            patched(head, (40, "I", 1000)) + samples[:1000] + bytes(7000), "header promises 1000 bytes of audio",
        ),
        "data_long": (patched(data, (40, "I", 9000)), "is cut: its header promises 9000 bytes of audio, got 8000"),
        "data_unknown": (patched(data, (40, "I", 2**32 - 1)), USED),
        "data_missing": (head[:36], "libsndfile cannot read it"),
        "head_alone": (head, "is cut: its header promises 8000 bytes of audio, got 0"),
        "half_a_head": (head[:20], "libsndfile cannot read it"),
        "junk_before": (data[:12] + b"junk\x06\0\0\0abcdef" + data[12:], USED),
        "list_behind": (data + b"LIST\x04\0\0\0abcd", USED),
        "tag_behind": (data + b"TAG" + b"x" * 125, USED),
        "zeros_behind": (data + bytes(300), USED),
        "noise_behind": (data + b"\x91\x85\x99\xff" * 9, "bytes follow that are none of its chunks"),
        "riff_twice": (data + data, "libsndfile cannot read it"),
    }  # fmt: skip
    fate |= {
        "au_short": (bytearray_at(encoded("au", folder), 8, b"\0\0\x40\0"), "is cut"),
        "flac_endless": (flac_of_unknown_length(encoded("flac", folder)), "its header must say how long it is"),
        "mp3_behind_text": (b"hello\n" * 9 + encoded("mp3", folder), ""),
    }
    return {f"header_{name}": Case(content(data), told) for name, (data, told) in fate.items()}


def bytearray_at(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def flac_of_unknown_length(data: bytes) -> bytes:
    """Clear the number of samples, 36 bits of STREAMINFO, as a writer to a pipe leaves it."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def of_samples() -> dict[str, Case]:
    """Write whole files whose samples are odd."""
    silent = "must not be silent"
    found = {
        "nan": (sound(np.where(np.arange(4000) == 3999, np.nan, SOUND)), "samples must be finite, got 1 NaN"),
        "infinite": (sound(np.where(np.arange(4000) == 0, -np.inf, SOUND)), "samples must be finite"),
        "all_nan": (sound(np.full(100, np.nan), coding="DOUBLE"), "samples must be finite, got 100"),
        "huge": (sound(SOUND * 1e20, coding="DOUBLE"), "samples must be at most 1e+12 in magnitude"),
        "above_1": (sound(SOUND * 100), USED),
        "faint": (sound(SOUND * 1e-4, coding="PCM_16"), USED),
        "silent": (sound(np.zeros(4000)), silent),
        "silent_8_bits": (sound(np.zeros(4000), coding="PCM_U8"), silent),
        "silent_stereo": (sound(np.zeros((4000, 2))), silent),
        "silent_flac": (sound(np.zeros(4000), kind="FLAC", coding="PCM_16"), silent),
        "anti_phase": (sound(np.stack([SOUND, -SOUND], axis=1)), silent),
        "no_frame": (sound(np.zeros(0)), "must hold at least one frame"),
        "one_sample": (sound([0.5]), USED),
        "64_channels": (sound(np.tile(own(1)[:, None], 64)), USED),
        "384_kHz": (sound(own(2), rate=384_000), USED),
        "44101_Hz": (sound(own(3), rate=44_101), USED),
        "1000_Hz": (sound(own(4), rate=1000), USED),
    }
    return {f"samples_{name}": Case(*case) for name, case in found.items()}


def of_contents() -> dict[str, Case]:
    """Call things audio that are none."""
    other = "libsndfile cannot read it"
    found = {
        "empty.wav": (b"", other), "empty.flac": (b"", other), "empty.mp3": (b"", other), "byte.wav": (b"R", other),
        "text.wav": (b"hello\n" * 50, other), "page.mp3": (b"<!doctype html><html>", other),
        "riff_of_nothing.wav": (b"RIFF\0\0\0\0WAVE", other), "riff_of_video.wav": (b"RIFF\0\0\0\0AVI LIST", other),
        "picture.wav": (b"\x89PNG\r\n\x1a\n" + bytes(50), other), "archive.wav": (b"PK\x03\x04" + bytes(50), other),
        "pointer.flac": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", other),
        "script.wav": (b"#!/bin/sh\nrm -rf /\n", other), "random.wav": (bytes(range(256)) * 9, other),
        "phone.m4a": (b"\0\0\0\x20ftypM4A " + bytes(100), "convert it: ffmpeg -i"),
        "browser.webm": (b"\x1aE\xdf\xa3" + bytes(100), "convert it: ffmpeg -i"),
        "phone called.wav": (b"\0\0\0\x20ftypM4A " + bytes(100), "convert it: ffmpeg -i"),
    }  # fmt: skip
    return {f"content_{name}": Case(content(data), told) for name, (data, told) in found.items()}


def of_names() -> dict[str, Case]:
    """Give good clips odd names."""
    names = [
        "two words.wav", "new\nline.wav", "tab\t.wav", "quote'.wav", 'double".wav', "back\\slash.wav", "-dash.wav",
        "=formula.wav", "%s.wav", "$(touch x).wav", "`x`.wav", "<b>.wav", "a,b.wav", "a;b.wav", "[0].wav", "{a}.wav",
        "*.wav", "?.wav", "~.wav", "#.wav", "käse.wav", "ka\u0308sefuss.wav", "\U0001f436.wav", "\u202egnp.wav",
        "UPPER.WAV", "no_suffix", "dots...wav", "caf\udce9.wav", "\x1b[31m.wav", "x" * 240 + ".wav", "flac.wav",
    ]  # fmt: skip
    found = {name: Case(sound(own(100 + place)), USED) for place, name in enumerate(names)}
    found["flac.wav"] = Case(sound(own(99), kind="FLAC", coding="PCM_16"), USED)
    return found


def _directory(path: Path) -> None:
    path.mkdir()


def _bundle(path: Path) -> None:
    path.mkdir()
    sound(own(50))(path / "inside.wav")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(path.parent)  # an address has 108 bytes at most
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def _link_to_good(path: Path) -> None:
    target = path.parent.parent.parent.parent / "elsewhere.wav"
    sound(own(51))(target)
    path.symlink_to(target)


def of_kinds() -> dict[str, Case]:
    """Put what is no file where a file should be."""
    regular = "must be a regular file"
    return {
        "kind_fifo.wav": Case(os.mkfifo, regular),
        "kind_directory.wav": Case(_directory, regular),
        "kind_socket.wav": Case(_socket, regular),
        "kind_device.wav": Case(lambda path: path.symlink_to("/dev/zero"), regular),
        "kind_broken_link.wav": Case(lambda path: path.symlink_to("gone"), "cannot be opened"),
        "kind_loop.wav": Case(lambda path: path.symlink_to(path.name), "cannot be opened"),
        "kind_link.wav": Case(_link_to_good, USED),
    }


def all_files(folder: Path) -> dict[str, Case]:
    """Return every case by the name of its file."""
    made = of_formats(folder) | of_headers(folder) | of_samples()
    return {f"{name}.wav": case for name, case in made.items()} | of_contents() | of_names() | of_kinds()


GOOD = {"audio_filepath": "0.wav", "label": "cat"}


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


# Lines of a manifest -> "used", "bad" for a file that is skipped or raised, or what the refusal of the manifest says.
LINES: dict[str, tuple[str, str]] = {
    "good": (line(), USED),
    "blanks around": (f"  {line()}  \t", USED),
    "carriage return": (line() + "\r", USED),
    "more keys": (line(x=[1, {"y": None}]), USED),
    "whole file": (line(offset=0, duration=None), USED),
    "part": (line(offset=0.1, duration=0.2), USED),
    "a number as label": (line(label=5), USED),
    "list of one": (line(label=["cat"]), USED),
    "dots inside": (line(audio_filepath="./sub/../0.wav"), USED),
    "unicode": (line(label="k\u00e4se"), USED),
    "exponent": ('{"audio_filepath": "0.wav", "label": "cat", "offset": 1e-3, "duration": 1E-1}', USED),
    "no JSON": ("{", "cannot be parsed"),
    "half a line": (line()[:20], "cannot be parsed"),
    "two objects": (line() + line(), "cannot be parsed"),
    "single quotes": ("{'audio_filepath': '0.wav'}", "cannot be parsed"),
    "comma at the end": (line()[:-1] + ",}", "cannot be parsed"),
    "a list": ("[1, 2]", "must be a JSON object"),
    "a number": ("5", "must be a JSON object"),
    "null": ("null", "must be a JSON object"),
    "text": ('"0.wav"', "must be a JSON object"),
    "deep": ("[" * 100_000, "cannot be parsed"),
    "huge number": (line(offset=0)[:-1] + ', "x": ' + "9" * 5000 + "}", "cannot be parsed"),
    "no path": (json.dumps({"label": "cat"}), "audio_filepath must be the path of a file"),
    "path null": (line(audio_filepath=None), "audio_filepath must be the path of a file"),
    "path empty": (line(audio_filepath=""), "audio_filepath must be the path of a file"),
    "path number": (line(audio_filepath=7), "audio_filepath must be the path of a file"),
    "path list": (line(audio_filepath=["0.wav"]), "audio_filepath must be the path of a file"),
    "path with zero": (line(audio_filepath="0\0.wav"), "audio_filepath must be the path of a file"),
    "no label": (json.dumps({"audio_filepath": "0.wav"}), "must have a label under"),
    "label null": (line(label=None), "must have a label under"),
    "label empty": (line(label=""), "has no label"),
    "label true": (line(label=True), "must be a text, a number or a list"),
    "label map": (line(label={"a": 1}), "must be a text, a number or a list"),
    "two labels": (line(label=["cat", "dog"]), "must have one label"),
    "no label in a list": (line(label=[]), "must have one label"),
    "offset NaN": ('{"audio_filepath": "0.wav", "label": "cat", "offset": NaN}', "offset must be a number of seconds"),
    "offset infinite": ('{"audio_filepath": "0.wav", "label": "cat", "offset": 1e999}', "offset must be a number"),
    "offset negative": (line(offset=-0.1), "offset must be a number of seconds"),
    "offset text": (line(offset="0"), "offset must be a number of seconds"),
    "offset true": (line(offset=True), "offset must be a number of seconds"),
    "offset beyond": (line(offset=99.0), "bad"),
    "offset huge": (line(offset=1e300), "bad"),
    "duration NaN": ('{"audio_filepath": "0.wav", "label": "cat", "duration": NaN}', "duration must be a number"),
    "duration negative": (line(duration=-1), "duration must be a number of seconds"),
    "duration 0": (line(duration=0), "bad"),
    "duration beyond": (line(duration=99.0), "bad"),
    "absolute": (line(audio_filepath="/nowhere/0.wav"), "bad"),
    "above": (line(audio_filepath="../../../../nowhere.wav"), "bad"),
    "the folder": (line(audio_filepath="."), "bad"),
    "password file": (line(audio_filepath="/etc/passwd"), "bad"),
    "endless device": (line(audio_filepath="/dev/zero"), "bad"),
    "long path": (line(audio_filepath="a" * 5000), "bad"),
    "half a letter": ('{"audio_filepath": "\\ud800.wav", "label": "cat"}', "audio_filepath must be the path of a file"),
    "label half a letter": ('{"audio_filepath": "0.wav", "label": "\\ud800"}', "must be text"),
}
