"""The same clip gets the same answer: alone, in a folder, in any batch, and in the evaluation of the run."""

import csv
import io
import json
import math
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hopscotch.above import Dearer, warn_of
from hopscotch.answers import Answer, Prediction, Window, merged, write_json
from hopscotch.build import build_data
from hopscotch.data.audio import AudioFileError, read_clip
from hopscotch.data.datamodule import Split
from hopscotch.predict import Predictor, load
from hopscotch.report.decisions import history_cells
from hopscotch.restore import restore
from hopscotch.training.calibration import budget_table
from hopscotch.training.checkpoint import keep_budgets
from hopscotch.types import AudioBatch
from tests.tiny import SAMPLE_RATE, Ended

ROOT = Path(__file__).resolve().parent.parent
CLEAR = 1e-4  # between the two best scores; below, rounding may decide


@pytest.fixture(scope="module")
def clips(tones: Path) -> list[Path]:
    return sorted(tones.rglob("*.wav"))


@pytest.fixture(scope="module")
def model(trained: Path) -> Predictor:
    return load(trained)


@pytest.fixture
def long_file(tmp_path: Path, clips: list[Path]) -> Path:
    """All tones one after the other, twice: 7.5 s at another rate than the model's."""
    samples = torch.cat([read_clip(path, SAMPLE_RATE) for path in clips * 2])[:60_000].numpy()
    path = tmp_path / "long.wav"
    soundfile.write(path, np.repeat(samples, 2), 2 * SAMPLE_RATE)
    return path


def said(answers: list[Answer]) -> list[Prediction]:
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.prediction for answer in answers if answer.prediction is not None]


def alone(path: Path) -> AudioBatch:
    waveform = read_clip(path, SAMPLE_RATE)
    number = torch.tensor([0])
    return AudioBatch(waveform[None], torch.tensor([len(waveform)]), number, number, number)


def is_clear(prediction: Prediction) -> bool:
    best, second = sorted(prediction.probabilities.values())[-1:-3:-1]
    return best - second > CLEAR


def assert_same(ours: Prediction, theirs: Prediction) -> None:
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=2e-5)
    if is_clear(theirs):
        assert ours.label == theirs.label
    assert (ours.route, ours.strides, ours.history, ours.compute) == (
        theirs.route,
        theirs.strides,
        theirs.history,
        theirs.compute,
    )


def test_the_clips_of_these_tests_take_different_routes_and_get_different_labels(
    model: Predictor, clips: list[Path]
) -> None:
    predictions = said(list(model.predict(clips)))
    assert len({prediction.label for prediction in predictions}) > 1
    assert len({prediction.route for prediction in predictions}) > 1
    assert any(prediction.history for prediction in predictions)
    assert all(is_clear(prediction) for prediction in predictions)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_labels_do_not_depend_on_the_batch(trained: Path, model: Predictor, clips: list[Path], batch_size: int) -> None:
    together = list(load(trained, batch_size=batch_size).predict(clips))
    assert [answer.path for answer in together] == [str(path) for path in clips]
    for path, prediction in zip(clips, said(together), strict=True):
        assert_same(prediction, model(path))


def test_processes_side_by_side_say_the_same_in_the_same_order(
    model: Predictor, clips: list[Path], long_file: Path, tmp_path: Path
) -> None:
    files = [*clips, tmp_path / "absent.wav", long_file]
    alone, beside = list(model.predict(files)), list(model.predict(files, num_workers=2))
    assert [(a.path, a.error) for a in beside] == [(a.path, a.error) for a in alone]
    for ours, theirs in zip(beside, alone, strict=True):
        if theirs.prediction is not None:
            assert ours.prediction is not None
            assert_same(ours.prediction, theirs.prediction)


def test_labels_are_those_of_the_evaluation(
    trained: Path,
    model: Predictor,
) -> None:
    cfg, bare, classes, *_ = restore(trained)
    data = build_data(cfg)
    data.setup()
    splits: tuple[Split, ...] = ("val", "test")
    for split, loader in zip(splits, (data.val_dataloader(), data.test_dataloader()), strict=True):
        for batch in loader:
            with torch.no_grad():
                output = bare(batch.waveform, batch.lengths)
            cells = history_cells(output.trace)
            for row, index in enumerate(batch.indices.tolist()):
                path = data.clips[split][index].path
                assert path is not None
                ours = model(path)
                expected = dict(zip(classes, output.logits.softmax(dim=-1)[row].tolist(), strict=True))
                assert ours.probabilities == pytest.approx(expected, abs=2e-5)
                assert ours.label == classes[int(output.logits[row].argmax())]
                assert ours.compute == pytest.approx(float(output.trace.fraction[row]))
                assert ours.route == "".join("x->"[cell] for cell in cells[row])


def test_a_waveform_gets_the_answer_of_its_file(model: Predictor, clips: list[Path]) -> None:
    samples, rate = soundfile.read(clips[0], dtype="float32")
    assert_same(model(samples, sample_rate=rate), model(clips[0]))
    assert_same(model(torch.from_numpy(samples), rate), model(str(clips[0])))
    assert_same(model(samples[::-1].copy()[::-1], float(rate)), model(clips[0]))
    assert model(np.repeat(samples, 2), sample_rate=2 * rate).seconds == model(clips[0]).seconds


def test_a_wrong_waveform_is_named(model: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"floats of one channel, shape \(samples,\), got int16 of shape \(9,\)"):
        model(np.zeros(9, dtype="int16"), sample_rate=8000)
    with pytest.raises(ValueError, match=r"got float64 of shape \(2, 9\)"):
        model(np.zeros((2, 9)), sample_rate=8000)
    with pytest.raises(ValueError, match=r"model\(waveform, sample_rate=8000\)"):
        model(torch.ones(9))
    with pytest.raises(ValueError, match="must be finite"):
        model(torch.full((9,), torch.nan), 8000)
    with pytest.raises(ValueError, match=r"must be at most 1e\+12 in magnitude, got 1e\+18"):
        model(torch.tensor([0.0, -1e18]), 8000)
    for rate in (0, -8000, 8000.5, float("nan")):
        with pytest.raises(ValueError, match=rf"whole number of Hz in \[1000, 768000\], got {rate!r}"):
            model(torch.ones(9), rate)
    with pytest.raises(AudioFileError, match=r"none\.wav: cannot be opened"):
        model(tmp_path / "none.wav")


def test_what_is_longer_than_a_clip_of_the_data_is_cut_into_windows(model: Predictor, long_file: Path) -> None:
    assert model.window == 1.0  # four mean clips are less
    long = model(long_file)
    assert long.windows is not None
    assert long.seconds == 7.5
    assert [window.start for window in long.windows] == np.arange(0, 7, 0.5).tolist()
    assert {round(window.end - window.start, 9) for window in long.windows} == {1.0}
    assert (long.strides, long.history, long.route) == (None, None, None)
    samples = read_clip(long_file, SAMPLE_RATE)
    rows = [samples[round(window.start * SAMPLE_RATE) :][:SAMPLE_RATE] for window in long.windows]
    alone = [model(row, SAMPLE_RATE) for row in rows]
    for window, prediction in zip(long.windows, alone, strict=True):
        assert prediction.windows is None
        assert window.confidence == pytest.approx(prediction.confidence, abs=2e-5)
        assert (window.label, window.route) == (prediction.label, prediction.route)
    mean = {name: np.mean([prediction.probabilities[name] for prediction in alone]) for name in long.probabilities}
    assert long.probabilities == pytest.approx(mean, abs=2e-5)
    assert long.label == max(mean, key=lambda name: mean[name])
    assert long.compute == pytest.approx(np.mean([prediction.compute for prediction in alone]))  # equally long


def test_a_window_that_is_given_cuts_everything_longer(trained: Path, clips: list[Path]) -> None:
    model = load(trained, window=0.2, hop=0.1)
    longest = max(clips, key=lambda path: path.stat().st_size)
    windows = model(longest).windows
    assert windows is not None
    assert [(window.start, window.end) for window in windows] == [(0.0, 0.2), (0.04, 0.24)]


def test_a_long_waveform_is_cut_as_its_file_is(trained: Path, long_file: Path) -> None:
    model = load(trained, batch_size=3)
    ours, theirs = model(read_clip(long_file, SAMPLE_RATE), SAMPLE_RATE), model(long_file)
    assert ours.windows is not None
    assert theirs.windows is not None
    assert [window[:3] for window in ours.windows] == [window[:3] for window in theirs.windows]
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "window must be above 0 s, got 0.0"),
        ({"window": 1.0, "hop": 2.0}, "hop must be above 0 s and at most the window of 1 s, got 2.0"),
        ({"hop": 0.0}, "hop must be above 0 s"),
        ({"window": float("nan")}, "window must be a finite number of seconds, got nan"),
        ({"hop": float("inf")}, "hop must be a finite number of seconds, got inf"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_named(trained: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(trained, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "abacus"], "device must be one that torch finds here, such as cpu, got abacus"),
        (["--csv", "--out", "table.png"], "--out names a .png and goes with --explain, got table.png"),
    ],
)
def test_what_cannot_be_done_is_said_and_is_code_2(
    trained: Path, clips: list[Path], words: list[str], message: str
) -> None:
    ended = type_in(f"run={trained}", clips[0], *words)
    assert ended.code == 2
    assert message in ended.err


def test_files_are_read_no_further_ahead_than_two_groups(
    trained: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("hopscotch.predict.GROUP", 1)

    def names() -> object:
        for path in clips:
            asked.append(path)
            yield path

    answers = load(trained, batch_size=2).predict(names())  # pyright: ignore[reportArgumentType]
    next(answers)
    assert len(asked) <= 4
    assert len(list(answers)) == len(clips) - 1


def test_progress_is_told_in_shares_of_files(model: Predictor, clips: list[Path], long_file: Path) -> None:
    shares: list[float] = []
    list(model.predict([*clips[:3], long_file, "none.wav"], shares.append))
    assert sum(shares) == pytest.approx(5.0)
    assert len(shares) > 5  # a recording moves it window by window


def type_in(*words: object) -> Ended:
    """What `python scripts/predict.py <words>` does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, stdout, stderr = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["predict.py", *map(str, words)], out, err
    code = 0
    try:
        runpy.run_path(str(ROOT / "scripts" / "predict.py"), run_name="__main__")
    except SystemExit as end:
        code, message = (1, f"{end.code}\n") if isinstance(end.code, str) else (end.code or 0, "")
        err.write(message)
    finally:
        sys.argv, sys.stdout, sys.stderr = argv, stdout, stderr
    return Ended(code, out.getvalue(), err.getvalue())


def test_json_is_a_list_of_objects_and_a_bad_file_one_of_them(
    trained: Path, model: Predictor, clips: list[Path], long_file: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    ended = type_in(f"run={trained}", clips[0], bad, long_file, "--json")
    first, second, third = json.loads(ended.out)
    likely = first.pop("probabilities")
    assert list(first)[:4] == ["path", "label", "confidence", "compute"]
    prediction = model(clips[0])
    assert first == {
        "path": str(clips[0]),
        "label": prediction.label,
        "confidence": pytest.approx(prediction.confidence, abs=2e-5),
        "compute": pytest.approx(prediction.compute, abs=1e-6),
        "strides": prediction.strides,
        "history": prediction.history,
        "seconds": pytest.approx(prediction.seconds),
        "macs": prediction.macs,
        "dense_macs": prediction.dense_macs,
    }
    assert likely == pytest.approx(prediction.probabilities, abs=2e-5)
    assert next(iter(likely)) == prediction.label, "the most likely comes first"
    assert list(second) == ["path", "error"]
    assert "libsndfile cannot read it" in second["error"]
    assert len(third["windows"]) == 14
    assert list(third["windows"][0])[:5] == ["start", "end", "label", "confidence", "compute"]
    assert ended.code == 1
    assert ended.err.splitlines() == [f"Error: {second['error']}", "1 of 3 files failed."]


def test_json_has_null_for_what_is_no_number() -> None:
    prediction = Prediction("a", math.nan, {"a": math.nan}, 1, 2, [1], [], "x", math.inf)
    file = io.StringIO()
    write_json([Answer("a.wav", prediction, None)], file)
    (written,) = json.loads(file.getvalue(), parse_constant=pytest.fail)
    assert (written["confidence"], written["seconds"], written["strides"]) == (None, None, [1])


def test_as_many_classes_are_printed_as_asked_for(trained: Path, model: Predictor, clips: list[Path]) -> None:
    ranked = sorted(model(clips[0]).probabilities.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} {share:.3f}" for name, share in ranked[:2])
    (written,) = json.loads(type_in(f"run={trained}", clips[0], "--json", "--top", "2").out)
    assert list(written["probabilities"]) == [name for name, _ in ranked[:2]]
    assert type_in(f"run={trained}", clips[0], "--top", "2").out.endswith(f"{clips[0]}  [{words}]\n")
    (row,) = csv.DictReader(io.StringIO(type_in(f"run={trained}", clips[0], "--top", "2", "--csv").out))
    assert row["likely"] == words
    assert "--top must be at least 1, got 0" in type_in(f"run={trained}", clips[0], "--top", "0").err


def test_neighbouring_windows_of_one_label_share_a_line_of_the_table() -> None:
    def window(start: float, label: str, share: float, macs: int, stride: int) -> Window:
        other = {"a": "b", "b": "a"}[label]
        return Window(start, start + 2, label, share, {label: share, other: 1 - share}, macs, 10, [stride], [], "x")

    found = list(merged([window(0, "a", 0.6, 2, 1), window(1, "a", 0.8, 4, 2), window(2, "b", 0.9, 5, 1)]))
    assert [(count, w.start, w.end, w.label) for w, count in found] == [(2, 0, 3, "a"), (1, 2, 4, "b")]
    joined = found[0][0]
    assert (joined.confidence, joined.compute) == (pytest.approx(0.7), pytest.approx(0.3))
    assert (joined.strides, joined.route) == (None, "x"), "strides differ, the route does not"
    assert found[1][0].strides == [1]


def test_a_predictor_says_what_it_is_and_which_call_takes_many_files(model: Predictor, clips: list[Path]) -> None:
    assert repr(model) == (
        "<Predictor: jump_attention tells 3 classes (high, low, middle) at 8000 Hz on cpu; "
        "recordings over 1.00 s are cut into windows of 1.00 s.>"
    )
    with pytest.raises(ValueError, match=r"model\.predict\(\[\.\.\.\]\) takes many files"):
        model(clips[:2])


def test_a_budget_comes_from_the_table_of_the_checkpoint(trained: Path, clips: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    ended = type_in(f"run={run}", clips[0], "--budget", "0.6")
    assert ended.code == 2
    assert "this one has none: hopscotch evaluate RUN compute.budget=0.6 measures it" in ended.err
    model = load(run).model
    table = budget_table(model, [alone(path) for path in clips])
    keep_budgets(run / "checkpoints" / "best.ckpt", table)
    low, high = (row.fraction for row in (table[0], table[-1]))
    for end in (low, high):
        answers = said(list(load(run, budget=round(end, 3)).predict(clips)))
        assert sum(a.macs for a in answers) / sum(a.dense_macs for a in answers) == pytest.approx(end, abs=1e-3)
    fine, costly = Dearer(low, 0.9, 0.96, 0.01), Dearer(high, 0.8, 0.96, 0.01)
    (run / "summary.json").write_text(json.dumps({"budgets_above": [fine._asdict(), costly._asdict()]}))
    for budget, told in ((high, "".join(f"warning: {one}\n" for one in warn_of([costly]))), (low, "")):
        ended = type_in(f"run={run}", clips[0], "--budget", f"{budget:.3f}")
        assert (ended.code, ended.err) == (0, told)
    ended = type_in(f"run={run}", clips[0], "--budget", "0.01")
    assert ended.code == 2
    assert f"budget must lie between {low:.3f} and {high:.3f}, which this model reaches, got 0.01." in ended.err


def test_csv_has_a_row_per_label(trained: Path, model: Predictor, clips: list[Path], long_file: Path) -> None:
    ended = type_in(f"run={trained}", clips[0], long_file, "gone.wav", "--csv")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert len(rows) == 1 + 14 + 1
    prediction = model(clips[0])
    assert rows[0]["label"] == prediction.label
    assert [int(stride) for stride in rows[0]["strides"].split()] == prediction.strides
    assert [(row["path"], row["start"], row["end"]) for row in rows[1:3]] == [
        (str(long_file), "0.0", "1.0"),
        (str(long_file), "0.5", "1.5"),
    ]
    assert rows[-1]["error"].endswith("gone.wav: cannot be opened (No such file or directory).")
    assert ended.code == 1


def test_the_table_has_a_row_per_file_of_a_folder(trained: Path, tones: Path, clips: list[Path]) -> None:
    ended = type_in(f"run={trained}", tones)
    head, *rows = ended.out.splitlines()
    assert head.split() == ["label", "confidence", "compute", "strides", "route", "file"]
    assert sorted(row.split()[-1] for row in rows) == sorted(map(str, clips))
    assert {row.split()[0] for row in rows} <= {"high", "low", "middle"}
    assert (ended.code, ended.err) == (0, "")


def test_a_given_checkpoint_is_taken(trained: Path, clips: list[Path]) -> None:
    ended = type_in(f"run={trained}", f"ckpt={trained / 'none.ckpt'}", clips[0])
    assert ended.code == 2
    assert ended.err.endswith("none.ckpt, which is not there.\n")


def test_wrong_usage_is_one_line_and_exit_code_2(trained: Path, tmp_path: Path, clips: list[Path]) -> None:
    for words, message in (
        ((f"run={tmp_path}", clips[0]), "Error: run must be the folder of a run, got"),
        ((f"run={trained}", f"{tmp_path}/*.wav"), "Error: A pattern must fit at least one file, got none for"),
        ((f"run={trained}", tmp_path), "Error: A folder must hold at least one audio file, got none in"),
        ((f"run={trained}", clips[0], "--hop", "9"), "Error: hop must be above 0 s and at most the window"),
    ):
        ended = type_in(*words)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(message)
        assert ended.err.count("\n") == 1
    assert type_in(f"run={trained}").code == 2
    assert type_in(clips[0]).code == 2


def test_explain_draws_a_page_where_it_is_told_to(trained: Path, clips: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "pages" / "page.png"
    ended = type_in(f"run={trained}", "--explain", clips[0], "--out", page)
    assert (ended.code, ended.out.strip()) == (0, str(page))
    assert page.stat().st_size > 10_000
    ended = type_in(f"run={trained}", "--explain", tmp_path / "none.wav")
    assert (ended.code, ended.err.count("Error: Audio file")) == (1, 1)
    ended = type_in(f"run={trained}", "--explain", clips[0], "--out", clips[1] / "page.png")
    assert (ended.code, ended.err.count("\n"), ended.err[:14]) == (1, 1, "Error: [Errno ")


def test_a_waveform_of_another_rate_is_resampled(trained: Path) -> None:
    def tone(rate: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * 440 * torch.arange(rate // 2) / rate)

    resampled = load(trained).resampled(tone(16000), 16000)
    torch.testing.assert_close(resampled[200:-200], tone(8000)[200:-200], rtol=0, atol=1e-3)


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], int]]:
    """Give a pipe that holds these bytes, and its number; standard input is put back."""
    kept = os.dup(0)

    def give(content: bytes) -> int:
        reading, writing = os.pipe()
        os.write(writing, content)  # less than a pipe holds
        os.close(writing)
        return reading

    yield give
    os.dup2(kept, 0)
    os.close(kept)


@pytest.mark.skipif(os.name == "nt", reason="no /dev/fd")
def test_a_pipe_gets_the_answer_of_its_file(
    trained: Path, model: Predictor, clips: list[Path], piped: Callable[[bytes], int], tmp_path: Path
) -> None:
    flac = tmp_path / "clip.flac"
    soundfile.write(flac, *soundfile.read(clips[0], dtype="int16"))
    assert_same(model(f"/dev/fd/{piped(flac.read_bytes())}"), model(clips[0]))
    content = bytearray(clips[0].read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4  # as ffmpeg writes what it cannot seek in
    os.dup2(piped(bytes(content)), 0)
    ended = type_in(f"run={trained}", "-", clips[1], "--json", "--workers", "2")
    first, second = json.loads(ended.out)
    assert (first["path"], second["path"], ended.code) == ("-", str(clips[1]), 0)
    assert first["label"] == model(clips[0]).label
    os.dup2(piped(b"no audio"), 0)
    ended = type_in(f"run={trained}", "-")
    assert ended.code == 1
    assert ended.err.startswith("Error: Audio file -: libsndfile cannot read it")


def test_silence_is_predicted_with_a_note(trained: Path, model: Predictor, tmp_path: Path) -> None:
    short, long = tmp_path / "short.wav", tmp_path / "long.wav"
    soundfile.write(short, np.zeros(2000), SAMPLE_RATE)
    soundfile.write(long, np.zeros((30_000, 2)), SAMPLE_RATE)
    ended = type_in(f"run={trained}", short, long, "--json")
    first, second = json.loads(ended.out)
    assert (first["note"], second["note"], ended.code) == ("digital silence", "digital silence", 0)
    assert sum(first["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
    assert f"{short} (digital silence)" in type_in(f"run={trained}", short).out
    (row,) = csv.DictReader(io.StringIO(type_in(f"run={trained}", short, "--csv").out))
    assert (row["note"], row["error"]) == ("digital silence", "")
    assert model(torch.zeros(2000), SAMPLE_RATE).note == "digital silence"
    assert model(torch.ones(2000) * 0.1, SAMPLE_RATE).note is None


def test_what_ffmpeg_reads_comes_with_its_command(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "a b.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    assert f"convert it: ffmpeg -i '{path}'" in type_in(f"run={trained}", path).err
