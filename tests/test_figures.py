from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import font_manager, rcParams
from matplotlib.colors import to_rgb
from matplotlib.ft2font import FT2Font
from torchmetrics.functional.classification import multiclass_calibration_error

from hopscotch.report.decisions import JUMPED_OVER, LANDED, RAN, history_cells, stride_shares
from hopscotch.report.figures import (
    HISTORY_COLOURS,
    HISTORY_WORDS,
    draw_confusion,
    draw_heard,
    draw_histories,
    draw_pattern_history,
    stride_colours,
)
from hopscotch.report.paint import BLUE, new_figure, save, shortened, svg, use_letters_of
from hopscotch.report.statistics import NUM_BINS, reliability
from tests.hand_made import both_trace, jump_trace

HERTZ = np.array([200.0, 300.0, 500.0, 700.0, 900.0, 1100.0, 1300.0, 1500.0])  # middles of bands


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    ((figure, _),) = draw_confusion(np.eye(2, dtype=int), ["$1_$2", "five $"])
    save(figure, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
    assert shortened("$1_$2") == r"\$1_\$2"


def test_a_confusion_is_shaded_by_its_row_and_numbered_where_there_is_room() -> None:
    counts = np.array([[3, 1], [0, 2]])
    axes = draw_confusion(counts, ["a", "b"])[0][0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "2"]
    (mesh,) = axes.collections
    assert np.asarray(mesh.get_array())[..., 3].tolist() == [[0.75, 0.25], [0.0, 1.0]]
    (mesh,) = draw_confusion(np.array([[0, 0], [0, 1]]), ["a", "b"])[0][0].axes[0].collections
    assert np.asarray(mesh.get_array())[0, :, 3].tolist() == [0.0, 0.0]  # a class without clips
    many = draw_confusion(np.eye(30, dtype=int), [str(i) for i in range(30)])[0][0].axes[0]
    assert len(many.texts) == 0


def test_a_history_is_the_trace_cell_by_cell_with_names_beside_it_and_words_for_its_colours() -> None:
    cells, names = history_cells(jump_trace()), ["a/rather/long/folder/" + "n" * 100 + ".wav", "b", "c", "d"]
    figure = draw_histories(jump_trace(), range(4), "validation clips", names)
    matrix = figure.axes[1]
    (mesh,) = matrix.collections
    np.testing.assert_array_equal(np.asarray(mesh.get_array()), cells)
    colours = mesh.get_facecolor() if len(mesh.get_facecolor()) == cells.size else mesh.to_rgba(cells.ravel())
    expected = [to_rgb(HISTORY_COLOURS[int(cell)]) for cell in cells.ravel()]
    np.testing.assert_allclose(np.asarray(colours)[:, :3], expected)
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["n" * 23 + "…", "b", "c", "d"]
    assert matrix.get_ylabel() == "4 of 4 validation clips"
    (words,) = figure.legends
    assert [text.get_text() for text in words.get_texts()] == [
        HISTORY_WORDS[kind] for kind in (RAN, LANDED, JUMPED_OVER)
    ]
    figure.draw_without_rendering()
    assert all(label.get_window_extent().x0 >= 0 for label in matrix.get_yticklabels())


def band_of(figure: Any, layer: int, num_layers: int) -> np.ndarray:
    """Colours of a layer in a history of patterns: from above, a row per hundredth of the clips, a column per epoch."""
    (picture,) = figure.axes[0].images
    return np.asarray(picture.get_array()).reshape(num_layers, 108, -1, 3)[layer, 4:-4]


def test_a_history_of_patterns_stacks_the_shares_of_each_layer() -> None:
    shares = stride_shares(both_trace().strides.numpy())
    figure = draw_pattern_history({0: shares}, [0, 1, 2])
    colours = stride_colours(4)
    for layer in range(3):
        order = (1, 2, 3, 4, 0)  # from below: who did not attend lies on top
        counts = np.round(100 * shares[layer, order]).astype(int)
        expected = np.repeat(colours[list(order)], counts, axis=0)[::-1]
        np.testing.assert_allclose(band_of(figure, layer, 3)[:, 0], expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2", "3", "4", "none"]


def test_a_pattern_history_has_a_column_per_epoch_and_keeps_its_width() -> None:
    shares = stride_shares(both_trace().strides.numpy())
    few, many = (draw_pattern_history(dict.fromkeys(range(num), shares), [0, 1, 2]) for num in (5, 1000))
    assert few.axes[0].get_xlim() == (-0.5, 4.5)
    assert many.axes[0].get_xlim() == (-0.5, 999.5)
    assert few.get_figwidth() == many.get_figwidth() <= 3.5
    grown = draw_pattern_history({0: shares[:, :3], 1: shares}, [0])
    assert [text.get_text() for text in grown.legends[0].get_texts()] == ["1", "2", "3", "4"]  # all clips ran layer 0
    other = shares.copy()
    other[0] = [0.0, 0.0, 0.0, 0.0, 1.0]
    late = band_of(draw_pattern_history({2: shares, 5: other}, [0]), 0, 1)  # validated after epochs 2 and 5
    assert late.shape[1] == 4
    assert [bool((late[:, place] == late[:, 0]).all()) for place in range(4)] == [True, True, True, False]


def test_strides_go_from_dark_to_light_whatever_the_largest() -> None:
    for largest in (1, 2, 4, 8):
        lightness = stride_colours(largest)[1:] @ [0.299, 0.587, 0.114]
        assert len(lightness) == largest
        assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_mel_picture_of_silence_is_dark_all_over(level: float) -> None:
    figure = draw_heard(np.full((20, 8), level), 0.01, HERTZ, "clip")
    (picture,) = figure.axes[0].images
    colours = picture.to_rgba(np.asarray(picture.get_array()).ravel())
    np.testing.assert_allclose(colours[:, :3], np.tile(stride_colours(1)[1], (160, 1)))


def test_a_mel_picture_says_hertz_where_the_bands_have_them() -> None:
    axes = draw_heard(np.zeros((20, 8)), 0.01, HERTZ, "clip").axes[0]
    assert axes.get_ylabel() == "Hz"
    told = dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert told == {"250": 0.5, "500": 2.0, "1,000": 4.5}
    (picture,) = axes.images
    assert picture.get_extent() == pytest.approx((-0.005, 0.195, -0.5, 7.5))  # band i about i, low ones below


def test_open_tokens_stand_under_the_frames_they_were_made_of() -> None:
    is_open = np.array([[True, False], [False, True]])
    figure = draw_heard(np.zeros((6, 8)), 0.01, HERTZ, "clip", is_open, 0.04)
    above, below = figure.axes
    (mesh,) = below.collections
    np.testing.assert_array_equal(np.asarray(mesh.get_array()), is_open)
    figure.draw_without_rendering()
    expected = [to_rgb(BLUE if cell else HISTORY_COLOURS[JUMPED_OVER]) for cell in is_open.ravel()]
    np.testing.assert_allclose(mesh.to_rgba(is_open.astype(float).ravel())[:, :3], expected)
    middles = mesh.get_coordinates()[0, :, 0]  # pyright: ignore[reportAttributeAccessIssue]  # it is a QuadMesh
    np.testing.assert_allclose((middles[1:] + middles[:-1]) / 2, [0.0, 0.04])  # of frames 0 and 4
    assert below.get_xlim() == above.get_xlim() == pytest.approx((-0.005, 0.055))  # cut to the mel picture


def test_letters_that_the_usual_font_lacks_come_from_another_and_boxes_are_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U+24B6 is in STIXGeneral, which comes with matplotlib; no font that comes with it has Japanese."""
    usual = {font.name for font in font_manager.fontManager.ttflist if font.weight == 400 and font.style == "normal"}
    assert {"DejaVu Sans", "STIXGeneral"} <= usual
    monkeypatch.setitem(rcParams, "font.family", ["sans-serif"])
    use_letters_of(["yes", "no"])
    assert rcParams["font.family"] == ["sans-serif"]
    use_letters_of(["\N{CIRCLED LATIN CAPITAL LETTER A}", "日本語", "ü"])
    first, other, *_ = rcParams["font.family"]
    assert first == "DejaVu Sans"
    assert 0x24B6 in FT2Font(font_manager.findfont(other)).get_charmap()
    assert not any(name.startswith("Last Resort") for name in rcParams["font.family"])
    figure, axes = new_figure()
    axes.set_title("日本語")
    save(figure, tmp_path / "a.png")  # a warning would be an error here
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_svg_has_text_of_any_script_in_the_readers_ink() -> None:
    ((figure, _),) = draw_confusion(np.array([[3, 1], [0, 2]]), ["\u65e5\u672c", "\u0434\u0430"])
    told = svg(figure)
    assert ">\u65e5\u672c</text>" in told
    assert ">\u0434\u0430</text>" in told
    assert "currentColor" in told
    assert "prefers-color-scheme:dark" in told
    assert "#282828" not in told
    assert "#000000" not in told


def test_calibration_error_is_that_of_torchmetrics() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1.0, 200)
    right = generator.random(200) < 0.8
    scores = torch.tensor(np.stack([sure, 1 - sure], axis=1))
    labels = torch.tensor(np.where(right, 0, 1))
    wanted = multiclass_calibration_error(scores, labels, 2, n_bins=NUM_BINS).item()
    assert reliability(sure, right).error == pytest.approx(wanted, abs=1e-6)
