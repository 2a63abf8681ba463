import io
import json
from pathlib import Path

import torch
from rich.console import Console

from hopscotch.report.collect import Evaluation
from hopscotch.report.summary import print_summary, tensorboard_command, write_summary
from hopscotch.system import IS_CHECKOUT, commit
from tests.hand_made import both_trace, make_evaluation, skips_of, stride_trace


def facts(test: Evaluation, **more) -> dict:
    """What summary.json has of a run, as far as it is printed."""
    return {
        "metrics": {"acc": 0.5, "f1": 0.25},
        "data": {"bad": {"test": 0}},
        "majority_baseline": 0.5,
        "primary": {"interval": {"value": 0.5, "low": 0.15, "high": 0.85, "over": "4 clips"}},
        "compute": test.compute,
        "seconds": {"test_clip": 0.0043, "test_clip_dense": 0.007, "total": 174.0, "fit": 144.0},
        "kept": {"epoch": 10, "step": 110, "monitor": "val/loss", "value": 0.51234},
        "epochs": 12,
        "parameters": 1234,
        "warnings": [],
        **more,
    }


def printed(run: Path, test: Evaluation, **more) -> str:
    screen = io.StringIO()
    print_summary(run, test, skips_of(test.trace), facts(test, **more), Console(file=screen, width=100))
    return screen.getvalue()


def test_summary_file_holds_the_keys_of_the_design(tmp_path: Path) -> None:
    path = write_summary(
        tmp_path,
        status="finished",
        model="dense",
        seed=3,
        test={"acc": 0.5},
        compute={"fraction": 1.0, "macs": 10.0, "dense_macs": 10.0, "floor": 1.0},
        parameters=7,
        seconds={"to_first_step": 1.0, "fit": 2.0, "total": 3.0},
        warnings=["one"],
    )
    summary = json.loads(path.read_text())
    versions = summary.pop("versions")
    assert summary.pop("commit") == (commit() if IS_CHECKOUT else None)
    assert summary == {
        "status": "finished",
        "model": "dense",
        "seed": 3,
        "test": {"acc": 0.5},
        "compute": {"fraction": 1.0, "macs": 10.0, "dense_macs": 10.0, "floor": 1.0},
        "parameters": 7,
        "seconds": {"to_first_step": 1.0, "fit": 2.0, "total": 3.0},
        "warnings": ["one"],
    }
    assert versions["torch"] == torch.__version__.split("+")[0]


def test_failed_run_has_a_summary_with_its_error_and_without_figures(tmp_path: Path) -> None:
    path = write_summary(tmp_path, status="failed", model="dense", seed=0, error="data.root is missing")
    summary = json.loads(path.read_text())
    assert (summary["status"], summary["test"], summary["error"]) == ("failed", None, "data.root is missing")
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]  # nothing half-written beside it


def test_last_line_is_the_run_folder_however_long_its_name(tmp_path: Path) -> None:
    run = tmp_path / ("a folder with blanks and a very long name " * 5)
    (run / "tensorboard").mkdir(parents=True)
    (run / "tensorboard" / "events.out.tfevents.1").touch()
    *_, command, last = printed(run, make_evaluation(stride_trace())).splitlines()
    assert last == str(run)
    assert command.endswith(f"--logdir '{run}' --samples_per_plugin images=100,audio=50")


def test_terminal_says_first_what_one_asks_first(tmp_path: Path) -> None:
    test = make_evaluation(stride_trace())
    assert printed(tmp_path, test).split("\n\n")[0].splitlines() == [
        "",
        "test acc           0.5000  (0.150 to 0.850, 95 % over 4 clips)",
        "test f1            0.2500",
        "majority baseline  0.5000",
        "compute fraction   0.6500  (0.00 of 0.00 million MACs a clip)",
        "time fraction      0.61  (4.30 of 7.00 milliseconds a clip)",
        "kept               epoch 11 of 12, val/loss 0.5123",
        "minutes            2.9  (2.4 of training)",
        "parameters         1,234",
    ]
    primary = {"interval": {"value": 0.5, "low": 0.1, "high": 0.9, "over": "2 speakers, too few to be sure"}}
    words = "0.5000  (0.100 to 0.900, 95 % over 2 speakers, too few to be sure; 4 clips)"
    assert words in printed(tmp_path, test, primary=primary)
    compute = {"fraction": 0.6, "macs": 6e6, "target": 0.58}
    assert "0.6000  (6.00 of 10.00 million MACs a clip, target 0.5800)" in printed(tmp_path, test, compute=compute)
    assert "warning: so it is" in printed(tmp_path, test, warnings=["so it is"])


def test_nothing_is_named_that_is_not_there(tmp_path: Path) -> None:
    text = printed(tmp_path, make_evaluation(stride_trace()), kept=None)
    assert "look closer" not in text
    assert "the report" not in text
    assert "kept" not in text


def test_a_metric_that_is_no_share_of_clips_has_no_interval(tmp_path: Path) -> None:
    test = make_evaluation(stride_trace())
    assert "test mae           2.5000  (4 clips)\n" in printed(tmp_path, test, metrics={"mae": 2.5}, primary={})
    del test.rows["label"]
    assert "majority" not in printed(tmp_path, test, metrics={"mae": 2.5}, primary={})


def test_a_run_that_had_to_learn_by_heart_says_whether_it_did(tmp_path: Path) -> None:
    text = printed(tmp_path, make_evaluation(stride_trace()), learned_by_heart=1.0)
    assert "training acc       1.0000  (of the batches to learn by heart)" in text


def test_routes_are_counted_above_the_table(tmp_path: Path) -> None:
    text = printed(tmp_path, make_evaluation(stride_trace()))
    assert "What the test clips did: 4 routes, the commonest taken by 25% of them\n" in text


def test_terminal_table_says_what_each_layer_did(tmp_path: Path) -> None:
    lines = printed(tmp_path, make_evaluation(both_trace(), thresholds={0: 0.5})).splitlines()
    rows = [line.split() for line in lines if line.strip()[:1] in ("0", "1", "2")]
    assert rows == [
        ["0", "100%", "·", "75%", "25%", "·", "·"],
        ["1", "50%", "·", "·", "50%", "·", "·"],
        ["2", "100%", "50%", "·", "25%", "·", "75%"],
    ]


def test_tensorboard_command_quotes_a_blank() -> None:
    assert tensorboard_command("/my runs/one").endswith(
        " --logdir '/my runs/one' --samples_per_plugin images=100,audio=50"  # before it the program, wherever it is
    )
