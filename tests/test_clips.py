"""What a report shows is what happened: every number of its pictures equals that of the trace."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.report.clips import (
    ClipRow,
    Group,
    SplitClips,
    by_class,
    by_cost,
    by_value,
    cells_of,
    clip_rows,
    clip_table,
    confusions,
    decibels,
    open_rates_of,
    read_clips,
    route_in_words,
    routes_of,
    strides_in_words,
    strides_of,
    surely_wrong,
    write_clips,
)
from hopscotch.report.decisions import history_cells, layer_means, layers_of, stride_shares
from hopscotch.report.run_folder import CLIPS
from hopscotch.report.run_page import group_table
from hopscotch.types import SkipTrace
from tests.hand_made import (
    CLASSES,
    FourClips,
    both_trace,
    dense_trace,
    jump_trace,
    make_evaluation,
    make_trace,
    stride_trace,
)

TRACES = [dense_trace(), stride_trace(), jump_trace(), both_trace()]


def table_of(trace: SkipTrace, folder: Path) -> list[ClipRow]:
    """The clips of `make_evaluation`, through the file."""
    data = FourClips()
    data.setup()
    write_clips(clip_rows(make_evaluation(trace), SplitClips(data, "test")), folder / CLIPS)
    return read_clips(folder / CLIPS)


def clip(**facts: object) -> ClipRow:
    rows = {"label": "no", "prediction": "no", "confidence": 0.5}
    usual = ClipRow("a.wav", rows, 0.5, [1], [], "x", [math.nan], 0.1, 50, 100, 1.0, -20.0)
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
    rows = table_of(trace, tmp_path)
    layers = layers_of(cells_of(rows), strides_of(rows), open_rates_of(rows))
    np.testing.assert_array_equal(layers.ran, layer_means(trace)["jump/visited"])
    np.testing.assert_array_equal(layers.landed, trace.landings.double().mean(dim=0))
    np.testing.assert_array_equal(layers.strides, stride_shares(trace.strides.numpy()))
    np.testing.assert_allclose(layers.open_rate, layer_means(trace)["gate/open_rate"], rtol=1e-6)


@pytest.mark.parametrize("trace", TRACES, ids=["dense", "strides", "jumps", "both"])
def test_the_picture_of_routes_has_the_cells_of_the_trace(trace: SkipTrace, tmp_path: Path) -> None:
    rows = table_of(trace, tmp_path)
    np.testing.assert_array_equal(cells_of(rows), history_cells(trace))
    routes = routes_of(rows)
    assert sum(len(route.group.rows) for route in routes) == 4
    for route in routes:
        (cells,) = cells_of(route.group.rows[:1])
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


def test_single_clips_are_ranked_by_share_of_compute_and_by_how_sure_they_were(tmp_path: Path) -> None:
    rows = table_of(stride_trace(), tmp_path)
    assert [row.macs for row in by_cost(rows)] == [50, 60, 70, 80]
    assert [row.path for row in surely_wrong(rows)] == ["yes/3.wav", "yes/1.wav"]


def test_routes_read_as_on_the_dashboard() -> None:
    assert route_in_words("xx-->x") == "0 1 ⤳ 4 5"
    assert strides_in_words([1, 2, 0, 4]) == "1 2 · 4"


def test_a_file_of_classes_has_the_columns_that_it_always_had(tmp_path: Path) -> None:
    table_of(both_trace(), tmp_path)
    head, first, *_ = (tmp_path / CLIPS).read_text().splitlines()
    names = "path,label,prediction,confidence,compute,strides,history,route,open_rate,loss,macs,dense_macs,seconds"
    assert head == f"{names},decibels"
    assert first.startswith("no/0.wav,no,no,0.6000000238418579,0.9,1 2 4,")


def test_a_task_without_classes_has_its_own_columns(tmp_path: Path) -> None:
    data = FourClips()
    data.setup()
    rows = {"target": torch.tensor([-3.0, -6.0, -9.0, -12.0]), "estimate": torch.tensor([-3.5, -6.0, -8.0, -11.0])}
    evaluation = dataclasses.replace(make_evaluation(stride_trace()), rows=rows)
    write_clips(clip_rows(evaluation, SplitClips(data, "test")), tmp_path / CLIPS)
    read = read_clips(tmp_path / CLIPS)
    assert [row.rows for row in read][1] == {"target": -6.0, "estimate": -6.0}
    assert not read[0].has_classes
    assert clip_table(read, frozenset()).head == ["clip", "target", "estimate", "compute", "seconds"]
    name, found = Group("", tuple(read)).quality
    assert (name, found.value, found.over) == ("loss", pytest.approx(0.15), "4 clips")
    assert found.low < found.value < found.high
    taken = dataclasses.replace(evaluation, rows={"loss": evaluation.losses})
    with pytest.raises(ValueError, match=r"must not name a column as clips\.csv does, got loss"):
        clip_rows(taken, SplitClips(data, "test"))


def test_a_table_of_clips_has_the_columns_of_what_is_skipped(tmp_path: Path) -> None:
    rows = table_of(both_trace(), tmp_path)
    usual = ["clip", "is", "taken for", "confidence", "compute", "seconds"]
    assert clip_table(rows, frozenset()).head == usual
    table = clip_table(rows, frozenset({"layers", "strides"}))
    assert table.head == [*usual, "layers that ran", "strides"]
    assert table.rows[1] == ["yes/1.wav", "yes", "no", "0.733", "0.500", "0.10", "0 ⤳ 2", "1 · 2"]
    assert table.clips == [row.path for row in rows]


def test_a_group_of_one_clip_has_no_interval_of_compute() -> None:
    few, one = Group("few", (clip(macs=40), clip(macs=60))), Group("one", (clip(),))
    assert few.compute == 0.5
    assert [row[5] for row in group_table([one, few], "class").rows] == [
        "",
        "{:.3f} to {:.3f}".format(*few.compute_interval),
    ]


def test_groups_are_named_by_their_ends() -> None:
    rows = [clip(path=str(i), seconds=1.0 + i) for i in range(100)]
    groups = by_value(rows, "seconds")
    assert [len(group.rows) for group in groups] == [20] * 5
    assert groups[0].name == "1.00 to 20.00 s"
    rows = [clip(decibels=-math.inf)] * 3 + [clip(decibels=-10.0)] * 4
    loudness = by_value(rows, "decibels")
    assert [(group.name, len(group.rows)) for group in loudness] == [("-inf to -inf dB", 3), ("-10 to -10 dB", 4)]


def test_confusions_come_the_most_frequent_first(tmp_path: Path) -> None:
    assert confusions(table_of(dense_trace(), tmp_path)) == [(("yes", "no"), 2)]


@pytest.mark.parametrize("trace", [dense_trace(), stride_trace(), jump_trace(), both_trace()])
def test_pictures_can_be_drawn_from_the_table_exactly(trace: SkipTrace, tmp_path: Path) -> None:
    evaluation = make_evaluation(trace)
    data = FourClips()
    data.setup()
    rows = clip_rows(evaluation, SplitClips(data, "test"))
    write_clips(rows, tmp_path / "report" / CLIPS)
    read = read_clips(tmp_path / "report" / CLIPS)
    np.testing.assert_equal([row._asdict() for row in read], [row._asdict() for row in rows])
    np.testing.assert_array_equal(cells_of(read), history_cells(trace))
    strides = torch.tensor([row.strides for row in read])
    assert torch.equal(strides, trace.strides)
    np.testing.assert_array_equal(
        [np.bincount(layer, minlength=5) / 4 for layer in strides.T], stride_shares(trace.strides.numpy(), max_stride=4)
    )
    assert [row.history for row in read] == trace.histories
    assert [row.compute for row in read] == trace.fraction.tolist()
    assert sum(row.macs for row in read) / sum(row.dense_macs for row in read) == evaluation.compute_fraction
    assert [row.is_right for row in read] == [True, False, True, False]
    assert [row.seconds for row in read] == [0.1] * 4


def test_the_level_of_a_clip_is_its_root_mean_square_against_full_scale() -> None:
    assert decibels(torch.full((8,), -0.5)) == pytest.approx(20 * math.log10(0.5))
    assert decibels(torch.zeros(8)) == -math.inf
