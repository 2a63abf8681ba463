import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hopscotch.report.figures import clips_by_compute, draw_confusion, draw_report, save, shortened
from hopscotch.types import SkipTrace
from tests.hand_made import both_trace, jump_trace, make_evaluation, skips_of, stride_trace


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
    paths = draw_report(tmp_path, make_evaluation(trace), skips_of(trace))
    assert [path.name for path in paths] == names
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width > 600


def test_clips_of_a_picture_go_from_cheap_to_costly_and_span_the_whole_set() -> None:
    trace = dataclasses.replace(jump_trace(), macs=torch.tensor([90, 60, 100, 70]))
    assert clips_by_compute(trace, 4).tolist() == [1, 3, 0, 2]
    assert clips_by_compute(trace, 2).tolist() == [1, 2]


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    ((figure, _),) = draw_confusion(np.eye(2, dtype=int), ["$1_$2", "five $"])
    save(figure, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert shortened("$1_$2") == r"\$1_\$2"


def test_a_confusion_is_shaded_by_its_row_and_numbered_where_there_is_room() -> None:
    counts = np.array([[3, 1], [0, 2]])
    axes = draw_confusion(counts, ["a", "b"])[0][0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "2"]
    white, dark = np.asarray(axes.images[0].get_array())[1]
    assert white.mean() > 0.95
    assert dark.mean() < 0.4
    many = draw_confusion(np.eye(30, dtype=int), [str(i) for i in range(30)])[0][0].axes[0]
    assert len(many.texts) == 0
