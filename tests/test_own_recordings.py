"""task=detect on recordings of one's own, with label tracks written by hand: trained, evaluated, predicted, heard."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.evaluate import evaluate
from hopscotch.models.always_on import AlwaysOn
from hopscotch.predict import load
from tests.tiny import SAMPLE_RATE, TINY_MODEL, TINY_RUN, Command, write_tone

SECONDS = 2.0
TRACKS = {  # as Audacity exports them
    "train/two.wav": "0.250000\t0.750000\tlow\n1.250000\t1.750000\thigh\n",
    "train/overlapping.wav": "0.250000\t1.000000\tlow\n0.500000\t1.250000\thigh\n0.900000\t1.500000\tlow\n",
    "train/quiet.wav": "",
    "train/to_the_end.wav": "1.500000\t2.050000\thigh\n",  # beyond it by what label files round
    "train/all_of_it.wav": "0.000000\t2.000000\tlow\n",
    "train/blank.wav": "\n",
    "val/one.wav": "0.250000\t0.750000\tlow\n",
    "val/quiet.wav": "",
    "test/overlapping.wav": "0.250000\t1.000000\tlow\n0.500000\t1.250000\thigh\n",
    "test/quiet.wav": "",
}


def write(root: Path, **changes: str) -> Path:
    for number, (name, track) in enumerate(TRACKS.items()):
        write_tone(root / name, 300.0 + 20 * number, SECONDS)
        text = changes.get(name.partition("/")[0] + "_" + Path(name).stem, track)
        (root / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    return root


def typed(root: Path, *more: str) -> list[str]:
    data = ["data=events", f"data.root={root}", f"data.sample_rate={SAMPLE_RATE}", "data.batch_size=2"]
    model = ["task=detect", "model=always_on", "frontend=log_mel_stream", *TINY_MODEL]
    return [*model, *data, *TINY_RUN, "trainer.limit_train_batches=2", "hydra.run.dir=run", *more]


def test_a_run_on_tracks_written_by_hand_ends_with_figures_and_hears_its_recordings(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "own")
    ended = command(*typed(root))
    assert ended.code == 0, ended.err
    summary = json.loads(Path("run", "summary.json").read_text())
    assert summary["data"]["events"] == {
        "train": {"high": 3, "low": 4},
        "val": {"low": 1},
        "test": {"high": 1, "low": 1},
    }
    assert summary["data"]["duty"]["test"] == pytest.approx(1.0 / (2 * SECONDS))  # what overlaps counts once
    assert summary["kept"]["monitor"] == "val/miss_2"
    assert 0 <= summary["primary"]["test"] <= 1
    evaluate(Path("run"))
    assert "misses at 2 an hour" in capsys.readouterr().out
    model = load("run")
    for name in ("test/overlapping.wav", "test/quiet.wav"):
        assert isinstance(model(root / name).events, list)


@pytest.mark.filterwarnings("ignore:test/.* is nan. metrics.jsonl has null there:UserWarning")
def test_a_test_without_events_has_no_share_of_misses_and_says_so(command: Command, tmp_path: Path) -> None:
    ended = command(*typed(write(tmp_path / "own", test_overlapping="")))
    assert ended.code == 0, ended.err
    assert re.search(r"misses at 2 an hour +nan .* with 0\.0000 .* false alarms an hour", ended.out)
    summary = json.loads(Path("run", "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["primary"]["test"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_one": ""}, "data must have an event in a validation recording, from which thresholds are chosen"),
        ({"train_two": "1.5\t2.5\tlow\n"}, "two.txt line 1: an event must lie within the 2 s of train/two.wav"),
        ({"train_two": "1.5\t1.5\tlow\n"}, "two.txt line 1: an event must end after its start"),
        (dict.fromkeys(("train_two", "train_overlapping", "train_to_the_end"), ""), "none of high"),
    ],
)
def test_a_track_that_does_not_fit_is_named(
    changes: dict[str, str], message: str, command: Command, tmp_path: Path
) -> None:
    ended = command(*typed(write(tmp_path / "own", **changes)))
    assert ended.code == 1
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.slow  # a minute or two
@pytest.mark.skipif(
    not Path("/proc/self/statm").is_file(), reason="the memory of the process is read where Linux has it"
)
def test_memory_stays_over_six_hours_of_audio(command: Command, tmp_path: Path) -> None:
    ended = command(*typed(write(tmp_path / "own")))
    assert ended.code == 0, ended.err
    model = load("run")
    assert isinstance(model.model, AlwaysOn)
    generator = np.random.default_rng(0)
    levels = generator.uniform(0, 0.1, 60).repeat(SAMPLE_RATE)  # of each second of a minute
    minute = torch.from_numpy((levels * generator.normal(size=len(levels))).astype(np.float32))
    frames = model.model.frontend.frames(torch.tensor([len(minute)]))
    scores = model.model._heard(minute[None], frames, None).widened
    model.model.decision_bias.fill_(-float(scores.detach().quantile(0.8)))
    stream, used = model.stream(), list[float]()
    for _ in range(360):
        for chunk in minute.split(SAMPLE_RATE // 5):
            stream.feed(chunk)
        used.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    stream.end()
    assert stream.seconds == 6 * 3600
    assert 0.02 < stream.awake_share < 0.9
    assert max(used[60:]) - max(used[:60]) < 20  # MiB
