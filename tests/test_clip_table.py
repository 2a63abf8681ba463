import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.report.clip_table import FILE, clip_rows, decibels, read_clips, write_clips
from hopscotch.report.clips import SplitClips
from hopscotch.report.numbers import history_cells, stride_shares
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace
from tests.hand_made import FourClips, both_trace, dense_trace, jump_trace, stride_trace


def evaluation_of(trace: SkipTrace) -> Evaluation:
    rows = torch.arange(4)
    confidences = torch.tensor([0.1, 1 / 3, 0.7, 1.0])
    return Evaluation(trace, rows, rows % 2, rows * 0, confidences, torch.rand(4), {})


@pytest.mark.parametrize("trace", [dense_trace(), stride_trace(), jump_trace(), both_trace()])
def test_pictures_can_be_drawn_from_the_table_exactly(trace: SkipTrace, tmp_path: Path) -> None:
    evaluation = evaluation_of(trace)
    data = FourClips()
    data.setup()
    rows = clip_rows(evaluation, SplitClips(data, "test"))
    write_clips(rows, tmp_path / "report" / FILE)
    read = read_clips(tmp_path / "report" / FILE)
    np.testing.assert_equal([row._asdict() for row in read], [row._asdict() for row in rows])
    np.testing.assert_array_equal([row.cells for row in read], history_cells(trace))
    strides = torch.tensor([row.strides for row in read])
    assert torch.equal(strides, trace.strides)
    np.testing.assert_array_equal(
        [np.bincount(layer, minlength=5) / 4 for layer in strides.T], stride_shares(trace, max_stride=4)
    )
    assert [row.history for row in read] == trace.histories
    assert [row.compute for row in read] == trace.fraction.tolist()
    assert sum(row.macs for row in read) / sum(row.dense_macs for row in read) == evaluation.compute_fraction
    assert [row.is_right for row in read] == [True, False, True, False]
    assert [row.seconds for row in read] == [0.1] * 4


def test_the_level_of_a_clip_is_its_root_mean_square_against_full_scale() -> None:
    assert decibels(torch.full((8,), -0.5)) == pytest.approx(20 * math.log10(0.5))
    assert decibels(torch.zeros(8)) == -math.inf
