import io
import json
from pathlib import Path

import torch
from rich.console import Console

from hopscotch.report.collect import Evaluation
from hopscotch.report.summary import print_summary, tensorboard_command, write_summary
from hopscotch.system import IS_CHECKOUT, commit
from tests.hand_made import both_trace, make_evaluation, skips_of, stride_trace


def printed(run: Path, test: Evaluation, **arguments) -> str:
    screen = io.StringIO()
    facts = {"metrics": {"acc": 0.5, "f1": 0.25}, "parameters": 1234, **arguments}
    print_summary(run, test, skips_of(test.trace), console=Console(file=screen, width=100), **facts)
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
    *_, command, last = printed(run, make_evaluation(stride_trace())).splitlines()
    assert last == str(run)
    assert command.endswith(f"--logdir '{run}' --samples_per_plugin images=100,audio=50")


def test_terminal_shows_metrics_compute_and_parameters(tmp_path: Path) -> None:
    text = printed(tmp_path, make_evaluation(stride_trace()), warnings=["constant policy: so it is"])
    assert "test acc          0.5000  (4 clips)" in text
    assert "test f1           0.2500" in text
    assert "compute fraction  0.6500" in text
    assert "parameters        1,234" in text
    assert "warning: constant policy: so it is" in text


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
