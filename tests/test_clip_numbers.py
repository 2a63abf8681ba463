"""What a report shows is what happened: every number of its pictures equals that of the trace."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.report.clip_numbers import (
    Group,
    by_class,
    by_cost,
    by_duration,
    by_loudness,
    cells_of,
    confusion,
    confusions,
    kinds_of_rows,
    layers_of,
    route_in_words,
    routes_of,
    strides_in_words,
    surely_wrong,
    wilson,
)
from hopscotch.report.clip_table import ClipRow, clip_rows, read_clips, write_clips
from hopscotch.report.clips import SplitClips
from hopscotch.report.numbers import history_cells, layer_means, stride_shares
from hopscotch.report.run_pictures import route_cells
from hopscotch.report.run_story import group_table
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace
from tests.hand_made import CLASSES, FourClips, both_trace, dense_trace, jump_trace, make_trace, stride_trace

TRACES = [dense_trace(), stride_trace(), jump_trace(), both_trace()]


def table_of(trace: SkipTrace, folder: Path) -> list[ClipRow]:
    """Clips 0 and 2 are `no`, 1 and 3 `yes`; all are taken for `no`, the later the more surely; through the file."""
    rows = torch.arange(4)
    confidences = torch.tensor([0.1, 1 / 3, 0.7, 1.0])
    evaluation = Evaluation(trace, rows, rows % 2, rows * 0, confidences, torch.rand(4), {})
    data = FourClips()
    data.setup()
    write_clips(clip_rows(evaluation, SplitClips(data, "test")), folder / "clips.csv")
    return read_clips(folder / "clips.csv")


def clip(**facts: object) -> ClipRow:
    usual = ClipRow("a.wav", "no", "no", 0.5, 0.5, [1], [], "x", [math.nan], 0.1, 50, 100, 1.0, -20.0)
    return usual._replace(**facts)


@pytest.mark.parametrize("trace", TRACES, ids=["dense", "strides", "jumps", "both"])
def test_the_compute_of_a_class_is_that_of_the_trace(trace: SkipTrace, tmp_path: Path) -> None:
    groups = by_class(table_of(trace, tmp_path), CLASSES)
    assert [group.name for group in groups] == CLASSES
    for label, group in enumerate(groups):
        members = torch.tensor([label, label + 2])
        assert group.compute == trace.macs[members].sum().item() / trace.dense_macs[members].sum().item()
        assert group.macs == trace.macs[members].double().mean().item()
    assert [group.accuracy for group in groups] == [1.0, 0.0]


@pytest.mark.parametrize("trace", TRACES, ids=["dense", "strides", "jumps", "both"])
def test_the_layers_of_the_report_are_those_of_the_trace(trace: SkipTrace, tmp_path: Path) -> None:
    layers = layers_of(table_of(trace, tmp_path))
    np.testing.assert_array_equal(layers.ran, layer_means(trace)["jump/visited"])
    np.testing.assert_array_equal(layers.landed, trace.landings.double().mean(dim=0))
    np.testing.assert_array_equal(layers.strides, stride_shares(trace))
    np.testing.assert_allclose(layers.open_rate, layer_means(trace)["gate/open_rate"], rtol=1e-6)


@pytest.mark.parametrize("trace", TRACES, ids=["dense", "strides", "jumps", "both"])
def test_the_picture_of_routes_has_the_cells_of_the_trace(trace: SkipTrace, tmp_path: Path) -> None:
    rows = table_of(trace, tmp_path)
    np.testing.assert_array_equal(cells_of(rows), history_cells(trace))
    routes = routes_of(rows)
    assert sum(len(route.group.rows) for route in routes) == 4
    for route, cells in zip(routes, route_cells(routes), strict=True):
        for row in route.group.rows:
            place = rows.index(row)
            np.testing.assert_array_equal(cells, history_cells(trace)[place])
            assert list(route.strides) == trace.strides[place].tolist()


def test_the_commonest_route_comes_first(tmp_path: Path) -> None:
    routes = routes_of(table_of(jump_trace(), tmp_path))
    assert [(route.letters, len(route.group.rows)) for route in routes] == [("xxx", 2), ("x->", 2)]
    strides = torch.tensor([[1, 2], [2, 2], [2, 2], [2, 2]])
    routes = routes_of(table_of(make_trace(strides=strides), tmp_path))
    assert [(route.strides, len(route.group.rows)) for route in routes] == [((2, 2), 3), ((1, 2), 1)]


def test_what_a_model_can_do_is_seen_in_its_clips(tmp_path: Path) -> None:
    kinds = [kinds_of_rows(table_of(trace, tmp_path)) for trace in TRACES]
    assert [kind.strides for kind in kinds] == [False, True, False, True]
    assert [kind.jumps for kind in kinds] == [False, False, True, True]
    assert [kind.gates for kind in kinds] == [False, False, True, False]


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(1.0, 10)[1] == 1.0
    assert wilson(0.0, 10)[0] == pytest.approx(0.0)


def test_the_interval_of_compute_narrows_with_the_clips_and_is_that_of_a_ratio() -> None:
    few = Group("few", (clip(macs=40), clip(macs=60)))
    many = Group("many", few.rows * 50)
    assert few.compute == many.compute == 0.5
    deviation = np.std([-10, 10] * 50, ddof=1)
    assert many.compute_interval == pytest.approx((0.5 - 1.96 * deviation / 1000, 0.5 + 1.96 * deviation / 1000), 1e-4)
    assert np.diff(few.compute_interval) > np.diff(many.compute_interval)
    one = Group("one", (clip(),))
    assert np.isnan(one.compute_interval).all()
    assert [row[5] for row in group_table([one, few], "class").rows] == [
        "",
        "{:.3f} to {:.3f}".format(*few.compute_interval),
    ]


def test_bins_hold_equal_numbers_and_every_clip_once() -> None:
    rows = [clip(path=str(i), seconds=1.0 + i) for i in np.random.default_rng(0).permutation(100).tolist()]
    groups = by_duration(rows)
    assert [len(group.rows) for group in groups] == [20] * 5
    assert groups[0].name == "1.00 to 20.00 s"
    assert sorted(row.path for group in groups for row in group.rows) == sorted(row.path for row in rows)


def test_equal_values_are_not_parted_and_silence_has_a_place() -> None:
    assert [len(group.rows) for group in by_duration([clip()] * 7)] == [7]
    loudness = by_loudness([clip(decibels=-math.inf)] * 3 + [clip(decibels=-10.0)] * 4)
    assert [(group.name, len(group.rows)) for group in loudness] == [("-inf to -inf dB", 3), ("-10 to -10 dB", 4)]


def test_confusions_are_counted_by_label_and_prediction(tmp_path: Path) -> None:
    rows = table_of(dense_trace(), tmp_path)
    np.testing.assert_array_equal(confusion(rows, CLASSES), [[2, 0], [2, 0]])
    assert confusions(rows) == [(("yes", "no"), 2)]


def test_single_clips_are_ranked_by_share_of_compute_and_by_how_sure_they_were(tmp_path: Path) -> None:
    rows = table_of(stride_trace(), tmp_path)
    assert [row.macs for row in by_cost(rows)] == [50, 60, 70, 80]
    assert [row.path for row in surely_wrong(rows)] == ["yes/3.wav", "yes/1.wav"]


def test_routes_read_as_on_the_dashboard() -> None:
    assert route_in_words("xx-->x") == "0 1 ⤳ 4 5"
    assert strides_in_words([1, 2, 0, 4]) == "1 2 · 4"
