"""The page and the card of a run: from whatever its folder holds, to the letter, and small."""

import json
import math
import random
import re
import runpy
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

import hopscotch.report.summary
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import AudioDataModule, Split
from hopscotch.report.clips import ClipRow, write_clips
from hopscotch.report.run_folder import read_run
from hopscotch.report.run_page import CARD, PAGE, Sounds, class_table, command, find_sounds, learning, write_report
from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder

CONFIG = """
seed: 3
model: {name: jump_attention, dim: 16, heads: 2, depth: 3}
data: {_target_: hopscotch.data.folder.Folder, root: clips, sample_rate: 8000, cache_gib: 1.0}
trainer: {max_epochs: 60}
"""
NUM_WORDS = 4
ROUTES = ("xxx", "x->", "xx>")


def words(count: int) -> list[str]:
    return [f"word {number}" for number in range(count)]


class Noise(AudioDataModule):
    """Clips of 3 s at 48 kHz: the largest sounds that a page may be asked for."""

    def __init__(self, num_clips: int, num_words: int = NUM_WORDS) -> None:
        super().__init__(sample_rate=48_000, batch_size=4, num_workers=0, cache_gib=0.0, seed=0, augment=None)
        self.num_clips, self.words = num_clips, words(num_words)
        self.num_loaded = 0

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        labels = [number % len(self.words) for number in range(self.num_clips)]
        clips = [Clip(f"{self.words[label]}/{i}.wav", label, 3 * 48_000) for i, label in enumerate(labels)]
        return self.words, {"train": clips, "val": clips, "test": clips}

    def load(self, clip: Clip) -> Tensor:
        self.num_loaded += 1
        return 0.3 * torch.randn(clip.num_samples)


def make_row(number: int, names: list[str], dice: random.Random) -> ClipRow:
    """A clip of the label that its number says, on a route drawn by `dice`."""
    label, route = names[number % len(names)], dice.choice(ROUTES)
    dense = dice.randint(10**6, 4 * 10**6)
    macs = dense * (route.count("-") + 2) // 4
    prediction = label if dice.random() < 0.8 else dice.choice(names)
    history = [layer for layer, letter in enumerate(route) if letter == ">"]
    return ClipRow(
        path=f"{label}/{number}.wav",
        rows={"label": label, "prediction": prediction, "confidence": dice.random()},
        compute=macs / dense,
        strides=[0, 0, dice.choice([1, 2, 4])],
        history=history,
        route=route,
        open_rate=[dice.random(), math.nan, math.nan],
        loss=dice.random(),
        macs=macs,
        dense_macs=dense,
        seconds=dense / 2e6,
        decibels=dice.gauss(-25, 5),
    )


def make_run(folder: Path, *, num_epochs: int = 2, num_clips: int = 70, num_words: int = NUM_WORDS) -> Path:
    """The files of a run, as a run writes them."""
    dice, names = random.Random(0), words(num_words)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "overrides.yaml").write_text("- model=jump_attention\n- data.root=my clips\n")
    lines = []
    for epoch in range(num_epochs):
        lines += [{"step": 75 * epoch + k, "epoch": epoch, "train/loss": 2.0 / (epoch + 1)} for k in range(9, 75, 10)]
        facts = {"val/loss": 1.0 / (epoch + 1), "val/acc": 0.5, "val/compute_fraction": 0.8}
        lines.append({"step": 75 * epoch + 74, "epoch": epoch, **facts})
        lines.append({"step": 75 * epoch + 74, "epoch": epoch, "train/acc": 0.5, "train/compute_fraction": 0.8})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [make_row(number, names, dice) for number in range(num_clips)]
    write_clips(rows, folder / "report" / "clips.csv")
    summary = {
        "status": "finished",
        "test": {"acc": sum(row.is_right for row in rows) / num_clips},
        "compute": {"fraction": 0.8, "macs": 1e6, "dense_macs": 2e6, "floor": 0.6, "target": 0.8},
        "parameters": 12345,
        "seconds": {"to_first_step": 1.0, "fit": 20.0, "test_clip": 0.00552, "total": 30.0},
        "kept": {"epoch": 0, "step": 75, "monitor": "val/acc", "value": 0.75},
        "skips": ["layers", "strides", "tokens"],
        "warnings": ["layer 1 has a dead gate: so it is."],
        "versions": {"torch": "2.11.0"},
        "epochs": num_epochs,
        "data": {
            "fingerprint": "0123456789abcdef",
            "classes": [*names, "<never>"],
            "clips": {"train": 90, "val": 9, "test": num_clips},
            "seconds": {"train": 60.0, "val": 6.0, "test": 60.0},
            "skipped": {"bad.wav": "is cut"},
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def written(folder: Path, sounds: Sounds | None = None, why_silent: str = "") -> tuple[str, str]:
    """The page without its pictures and sounds, and the card."""
    write_report(read_run(folder), sounds, why_silent)
    html = (folder / PAGE).read_text(encoding="utf-8")
    Balance().feed(html)
    return re.sub(r"base64,[^\"]*", "", html), (folder / CARD).read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Fails on an end without its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_and_the_card_say_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    html, card = written(run)
    for text in (html, card):
        for facts in (
            "12,345",
            "0.800",
            "python train.py model=jump_attention 'data.root=my clips'",
            "0123456789abcdef",
            "kept: best val/acc",
            "milliseconds test clip",
            "5.52",
        ):
            assert facts in text.replace("&#39;", "'")
        assert "layer 1 has a dead gate: so it is." in text
        assert "clips left out, 1 in all; summary.json has the reasons: bad.wav." in text
        assert "hopscotch predict " in text
        for title in ("Learning", "By class", "By duration", "By loudness", "What was skipped", "Single clips"):
            assert title in text
    assert "classes without test clips, of which nothing is known: &lt;never&gt;." in html
    assert "classes without test clips, of which nothing is known: \\<never\\>." in card
    assert html.count("<tr>") == sum(line.startswith("| ") for line in card.splitlines()) - sum(
        line.startswith("| ---") for line in card.splitlines()
    )


def test_page_and_card_have_one_picture_of_what_was_skipped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    html, card = written(run)
    assert html.count("<figcaption>What each clip read, layer by layer") == 1
    assert card.count("](report/skips.svg)") == 1
    assert (run / "report" / "skips.svg").read_text(encoding="utf-8").startswith("<svg")


def test_an_epoch_that_was_kept_and_is_the_last_has_one_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")  # which kept epoch 0
    assert [row[0] for row in learning(read_run(run)).rows] == ["kept: best val/acc", "last"]
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"kept": summary["kept"] | {"epoch": 1}}))
    assert [row[0] for row in learning(read_run(run)).rows] == ["kept: best val/acc"]


def test_the_command_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert shlex.split(command(run)) == ["python", "train.py", "model=jump_attention", "data.root=my clips"]


def test_listed_clips_can_be_heard_and_seen_and_no_others_are_decoded(tmp_path: Path) -> None:
    data = Noise(70)
    data.setup("test")
    html, _ = written(make_run(tmp_path / "run"), Sounds(data))
    assert (
        html.count("<audio") == html.count('<img class="mel"') == data.num_loaded == 20
    )  # 10 wrong, 5 cheap, 5 costly


def test_a_page_begins_with_metric_compute_and_time_and_says_nothing_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    found = json.loads((run / "summary.json").read_text())
    found["seconds"] |= {"test_clip_dense": 0.01104}
    (run / "summary.json").write_text(json.dumps(found))
    html, card = written(run)
    assert html.index("5.52 ms") < html.index("<nav>") < html.index(">What was skipped</h2>")
    assert "0.50 of the dense model&#39;s 11.04 ms" in html
    titles = re.findall(r'<h2 id="part\d+">([^<]*)</h2>', html)
    assert re.findall(r'<a href="#part\d+">([^<]*)</a>', html) == titles
    assert titles[0] == "What was skipped"
    assert titles[-1] == "What was trained, and how"
    assert len(set(titles)) == len(titles)
    images = re.findall(r'alt="([^"]*)"', html)
    assert len(set(images)) == len(images)
    assert "<h1>jump_attention on clips, seed 3</h1>" in html
    assert "Expected calibration error: " in card


def test_classes_have_precision_recall_and_the_macro_f1_of_torchmetrics(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    table = class_table(run)
    places = {name: place for place, name in enumerate(run.classes)}
    labels, named = (torch.tensor([places[getattr(row, key)] for row in run.clips]) for key in ("label", "prediction"))
    wanted = {"average": None, "num_classes": len(places)}
    precision, recall = multiclass_precision(named, labels, **wanted), multiclass_recall(named, labels, **wanted)
    for row in table.rows[:-1]:
        assert row[2] == f"{precision[places[row[0]]]:.3f}"
        assert row[3] == f"{recall[places[row[0]]]:.3f}"
    assert table.rows[-1][5] == f"{multiclass_f1_score(named, labels, len(places), average='macro'):.3f}"


def test_pages_of_three_clips_are_shown_where_they_were_drawn_and_run_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Three clips" not in written(run)[0]
    for word in ("cheapest", "median", "costliest"):
        (run / "report" / f"explain_{word}.svg").write_text('<svg width="648pt"><script>alert(1)</script></svg>')
    html, _ = written(run)
    assert html.count("What its layers read, ") == 6  # three captions, each also the words of its picture
    assert "alert" not in html  # inside an img, where no browser runs it
    (run / "report" / "explain_median.svg").unlink()
    (run / "report" / "explain_median.svg").symlink_to(run / "config.yaml")
    assert "The median" not in written(run)[0]


@pytest.mark.slow  # seconds of drawing
def test_a_page_of_60_epochs_and_3000_clips_stays_small(tmp_path: Path) -> None:
    run, data = make_run(tmp_path / "run", num_epochs=60, num_clips=3000, num_words=35), Noise(3000, 35)
    data.setup("test")
    write_report(read_run(run), Sounds(data))
    assert 1e6 < (run / PAGE).stat().st_size < 5e6


def test_what_is_recommended_stands_ahead_of_all_figures_and_before_it_is_known_how_to_compare(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    assert not any("Which model to take" in told or "To compare" in told for told in written(run))
    (run / "summary.json").write_text(json.dumps(summary | {"recommended": None, "compare": "by a <command>"}))
    page, card = written(run)
    assert "To compare: by a &lt;command&gt;" in page
    assert "To compare: by a \\<command\\>" in card
    choices = [{"condition": "clean", "words": "take <this>"}]
    (run / "summary.json").write_text(json.dumps(summary | {"recommended": choices}))
    page, card = written(run)
    assert 0 < page.index("clean: take &lt;this&gt;.") < page.index("What was skipped</h2>")
    assert 0 < card.index("clean: take \\<this\\>.") < card.index("What was skipped")
    (run / "summary.json").write_text(json.dumps(summary | {"recommended": [1, "of a stranger"]}))
    assert not any("stranger" in told for told in written(run))


@pytest.mark.parametrize("gone", ["summary.json", "metrics.jsonl", "report/clips.csv"])
def test_what_is_missing_is_named_and_the_rest_is_shown(tmp_path: Path, gone: str) -> None:
    run = make_run(tmp_path / "run")
    (run / gone).unlink()
    html, card = written(run)
    for text in (html, card):
        assert f"{gone} is missing: " in text
        assert ("By class" in text) == (gone != "report/clips.csv")
        assert ("Learning" in text) == (gone != "metrics.jsonl")


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    html, card = written(tmp_path)
    assert html.count(" is missing: ") == card.count(" is missing: ") == 3
    assert "There is no checkpoint yet" in html
    assert "no summary" in html


def test_a_run_on_its_way_shows_its_validation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "report" / "clips.csv").unlink()
    html, _ = written(run)
    assert "<b>0.5000</b><span>acc on validation clips, so far</span>" in html
    assert "<b>150</b><span>optimizer steps so far</span>" in html


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    summary = {"status": "failed", "test": None, "compute": None, "seconds": {"total": 3.0}, "error": "no such data"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    html, card = written(tmp_path)
    assert "failed: no such data" in html
    assert "failed: no such data" in card


def test_what_was_measured_afterwards_has_its_place(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    found = {
        "acc": 0.9,
        "fraction": 0.7,
        "shuffled_acc": 0.8,
        "shuffled_fraction": 0.7,
        "short_acc": 0.6,
        "full_acc": 0.91,
    }
    conditions = [{"condition": "0 dB", "acc": 0.42, "loss": 1.0, "fraction": 0.66, "macs": 1e6}]
    adaptation = {"conditions": conditions, "clean": found, "mixed": {"acc": 0.5}, "budgets": []}
    (run / "report" / "decision_value.json").write_text(json.dumps(adaptation))
    (run / "report" / "budgets.csv").write_text("requested,macs,acc\n0.85,8234024.448,0.636\n")
    _, card = written(run)
    assert "| 0 dB | 0.4200 | 1.0000 | 0.6600 |" in card
    assert "| clean | shuffled: those of another clip | 0.8000 | 0.7000 |" in card
    assert "| 0.8500 | 8,234,024 | 0.6360 |" in card


def test_data_that_are_gone_or_others_leave_the_page_without_sound(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))

    def gone(cfg: DictConfig) -> AudioDataModule:
        raise ValueError(f"data.root must be a folder, got {cfg.data.root}.")

    sounds, why = find_sounds(run, gone, ["data.root=elsewhere"])
    assert (sounds, why) == (
        None,
        "Without sound, for the data could not be read: "
        f"data.root must be a folder, got {Path('elsewhere').absolute()}.",
    )
    assert "a run names nothing to be read" in str(find_sounds(run, lambda _: Noise(70), [])[1])
    sounds, why = find_sounds(run, lambda _: Noise(70), ["data.root=elsewhere"])
    assert sounds is None
    assert "their fingerprint was 0123456789abcdef, now " in why
    html, _ = written(tmp_path / "run", sounds, why)
    assert why in html
    assert "<audio" not in html
    with pytest.raises(ValueError, match=r"An override must be data\.<key>=value .* got 'data.rot=x'"):
        find_sounds(run, gone, ["data.rot=x"])


@pytest.mark.usefixtures("pages")
def test_a_run_writes_its_report_by_itself(command: Command, tones: Path) -> None:
    ended = command(*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=jump_attention", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    html = (Path("run") / PAGE).read_text(encoding="utf-8")
    assert html.count("<audio") >= 3
    assert 'src="data:' in html
    assert f"the report:  {Path('run').absolute() / PAGE}" in ended.out
    assert "## By class" in (Path("run") / CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [ZeroDivisionError("of the report"), KeyboardInterrupt()])
@pytest.mark.usefixtures("pages")
def test_a_report_that_fails_costs_no_run(
    command: Command, tones: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(hopscotch.report.summary, "write_report", broken)
    ended = command(*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=dense", "hydra.run.dir=run")
    assert ended.code == 0
    assert f"warning: the run is finished, its report is not whole: {type(error).__name__}: {error}" in ended.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "finished"
    assert 0 <= summary["test"]["acc"] <= 1


def test_the_command_names_a_folder_that_is_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", f"run={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT_ROOT / "scripts" / "report.py"), run_name="__main__")
    assert ended.value.code == f"Error: run must be the folder of a run, got {tmp_path}: no config.yaml there."


def test_the_command_writes_both_files_and_says_why_there_is_no_sound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["report.py", f"run={run}"])
    runpy.run_path(str(PROJECT_ROOT / "scripts" / "report.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(run / CARD), str(run / PAGE)]
    assert err.startswith("Without sound, for the data could not be read: ")
    assert (run / PAGE).is_file()
