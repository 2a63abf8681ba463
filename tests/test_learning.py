import pytest

from hopscotch.report.learning import curve, epochs, kept_epoch, last, warnings_so_far

LINES = [
    {"step": 4, "epoch": 0, "train/loss": 3.0},
    {"step": 9, "epoch": 0, "val/loss": 2.0, "val/acc": 0.5},
    {"step": 9, "epoch": 0, "train/acc": 0.55},
    {"step": 19, "epoch": 1, "val/loss": 9.0, "val/acc": 0.1},  # before the kill
    {"step": 19, "epoch": 1, "val/loss": 1.0, "val/acc": 0.7},  # after the run was resumed
    {"step": 29, "epoch": 2, "val/loss": 1.5, "val/acc": None},
    {"step": 34, "epoch": 3, "train/loss": 0.5},
    {"step": 35, "epoch": 4, "test/acc": 0.6},
]


def test_a_curve_has_a_value_per_step_and_the_later_line_is_true() -> None:
    assert curve(LINES, "val/loss") == {9: 2.0, 19: 1.0, 29: 1.5}
    assert curve(LINES, "val/acc") == {9: 0.5, 19: 0.7}
    assert last(LINES, "val/acc") == 0.7
    assert last(LINES, "val/f1") is None


def test_an_epoch_counts_from_its_validation_on_and_the_lowest_loss_is_kept() -> None:
    assert [epoch["epoch"] for epoch in epochs(LINES)] == [0, 1, 2]
    assert epochs(LINES)[0] == {
        "step": 9,
        "epoch": 0,
        "train/loss": 3.0,
        "val/loss": 2.0,
        "val/acc": 0.5,
        "train/acc": 0.55,
    }
    kept = kept_epoch(LINES)
    assert kept is not None
    assert kept["epoch"] == 1
    assert kept_epoch(LINES[:1]) is None


@pytest.mark.parametrize(
    ("logged", "words"),
    [
        ({"policy/routes": 1.0}, "constant policy so far"),
        ({"gate/open_rate/layer_03": 0.001}, "layer 3 has a dead gate so far: it opens for 0.1%"),
        ({"gate/open_rate/layer_03": 0.999}, "layer 3 has a saturated gate so far: it is open for 99.9%"),
        ({"train/acc": 0.9, "val/acc": 0.7}, "over-fitting so far: accuracy is 0.900 on training clips and 0.700"),
        ({"train/acc": 0.9, "val/acc": 0.85, "policy/routes": 4.0, "gate/open_rate/layer_03": 0.5}, None),
    ],
)
def test_a_run_on_its_way_is_warned_of_by_what_it_logged(logged: dict[str, float], words: str | None) -> None:
    found = warnings_so_far([{"step": 9, "epoch": 0, "val/loss": 1.0, **logged}])
    assert [words in warning for warning in found if words] == [True] * (words is not None)
    assert len(found) == (words is not None)
    assert warnings_so_far([]) == []


def test_weights_that_came_along_from_another_run_are_of_no_epoch_here() -> None:
    kept = kept_epoch(LINES, kept_loss=1.0)
    assert kept is not None
    assert kept["epoch"] == 1
    assert kept_epoch(LINES, kept_loss=0.9) is None


def test_of_two_validations_in_an_epoch_the_better_one_is_kept() -> None:
    losses = {4: 0.5, 9: 0.9, 14: 0.8, 19: 0.7}
    lines = [{"step": step, "epoch": step // 10, "val/loss": loss} for step, loss in losses.items()]
    assert kept_epoch(lines, kept_loss=0.5) == {"step": 4, "epoch": 0, "val/loss": 0.5}
