import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from hopscotch.report.figures import clips_by_compute, draw_report
from hopscotch.report.findings import find_warnings
from hopscotch.report.summary import print_summary, tensorboard_command, write_summary
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace
from tests.hand_made import both_trace, dense_trace, jump_trace, make_trace, stride_trace


def evaluate(trace: SkipTrace, *, num_wrong: int = 1, thresholds: dict[int, float] | None = None) -> Evaluation:
    clips = torch.arange(len(trace.strides))
    predictions = (clips < num_wrong).long()
    return Evaluation(
        trace, clips, torch.zeros_like(clips), predictions, torch.ones(len(clips)), clips.float(), thresholds or {}
    )


def printed(run: Path, test: Evaluation, **arguments) -> str:
    screen = io.StringIO()
    print_summary(run, test, parameters=1234, console=Console(file=screen, width=100), **arguments)
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
    *_, command, last = printed(run, evaluate(stride_trace())).splitlines()
    assert last == str(run)
    assert command.endswith(f"--logdir '{run}' --samples_per_plugin images=100,audio=50")


def test_terminal_shows_accuracy_compute_and_parameters(tmp_path: Path) -> None:
    text = printed(tmp_path, evaluate(stride_trace()), warnings=["constant policy: so it is"])
    assert "test accuracy     0.7500  (4 clips)" in text
    assert "compute fraction  0.6500" in text
    assert "parameters        1,234" in text
    assert "warning: constant policy: so it is" in text


def test_terminal_table_says_what_each_layer_did(tmp_path: Path) -> None:
    lines = printed(tmp_path, evaluate(both_trace(), thresholds={0: 0.5})).splitlines()
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


def test_a_policy_that_takes_one_route_is_called_constant() -> None:
    constant = make_trace(strides=torch.full((4, 3), 2), entropy=0.1)
    (warning,) = find_warnings(evaluate(constant), decides=True, floor=0.5)
    assert warning.startswith("constant policy: fewer than two routes are each taken by 10% of the test clips; 1 is")
    assert find_warnings(evaluate(constant), decides=False, floor=1.0) == []  # a fixed pattern is meant to be constant
    assert find_warnings(evaluate(jump_trace()), decides=True, floor=0.5) == []


def test_a_policy_without_any_common_route_is_called_scattered() -> None:
    strides = 1 + torch.arange(20)[:, None] // torch.tensor([4, 2, 1])
    (warning,) = find_warnings(evaluate(make_trace(strides=strides)), decides=True, floor=0.5)
    assert warning.startswith("scattered rather than constant policy")


@pytest.mark.parametrize(("target", "is_missed"), [(0.65, False), (0.69, False), (0.71, True), (0.59, True)])
def test_a_missed_budget_is_named_with_its_figures(target: float, is_missed: bool) -> None:
    """The trace costs 0.65; a tenth of the reachable range [0.5, 1] is 0.05."""
    warnings = find_warnings(evaluate(stride_trace()), decides=True, floor=0.5, target=target)
    assert [warning.startswith("budget missed: test clips use 0.650") for warning in warnings] == [True] * is_missed


def test_a_run_that_never_validated_says_so_instead() -> None:
    (warning,) = find_warnings(evaluate(stride_trace()), decides=True, floor=0.5, target=0.71, validated=False)
    assert warning.startswith("not validated: decisions meet their budget")


def test_dead_and_saturated_gates_are_named_with_their_layer() -> None:
    rates = torch.tensor([[0.0, 0.5, 1.0]] * 4)
    dead, saturated = find_warnings(evaluate(make_trace(open_rate=rates)), decides=False, floor=0.5)
    assert dead.startswith("layer 0 has a dead gate")
    assert saturated.startswith("layer 2 has a saturated gate")


def test_over_fitting_is_named() -> None:
    (warning,) = find_warnings(evaluate(dense_trace()), decides=False, floor=1.0, train_accuracy=0.99)
    assert warning.startswith("over-fitting: accuracy is 0.990 on training clips and 0.750 on test clips")
    assert find_warnings(evaluate(dense_trace()), decides=False, floor=1.0, train_accuracy=0.84) == []


@pytest.mark.parametrize(
    ("trace", "names"),
    [
        (stride_trace(), ["skip_pattern.png"]),
        (jump_trace(), ["jump_history.png"]),
        (both_trace(), ["jump_history.png", "skip_pattern.png"]),
    ],
    ids=["strides", "jumps", "both"],
)
def test_report_has_the_pictures_of_what_the_model_can_do(tmp_path: Path, trace: SkipTrace, names: list[str]) -> None:
    paths = draw_report(tmp_path, evaluate(trace))
    assert [path.name for path in paths] == names
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width > 600


def test_clips_of_a_picture_go_from_cheap_to_costly_and_span_the_whole_set() -> None:
    trace = dataclasses.replace(jump_trace(), macs=torch.tensor([90, 60, 100, 70]))
    assert clips_by_compute(trace, 4).tolist() == [1, 3, 0, 2]
    assert clips_by_compute(trace, 2).tolist() == [1, 2]
