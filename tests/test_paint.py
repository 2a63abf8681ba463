import numpy as np
import pytest

from hopscotch.report.decisions import JUMPED_OVER, RAN, history_cells, stride_shares
from hopscotch.report.paint import (
    GAP_COLOUR,
    HISTORY_COLOURS,
    captioned,
    history_picture,
    paint_confusion,
    paint_histories,
    paint_mel,
    paint_shares,
    paint_tokens,
    pattern_picture,
    stacked,
    stride_colours,
)
from tests.hand_made import both_trace, jump_trace


def test_history_picture_is_the_trace_block_by_block() -> None:
    cells = history_cells(jump_trace())
    picture = paint_histories(cells, width=5, height=4)
    expected = np.full((16, 15, 3), GAP_COLOUR, dtype=np.uint8)
    for clip, layer in np.ndindex(4, 3):
        expected[clip * 4 : clip * 4 + 3, layer * 5 : layer * 5 + 4] = HISTORY_COLOURS[int(cells[clip, layer])]
    np.testing.assert_array_equal(picture, expected)


def test_pattern_picture_stacks_the_shares_of_each_layer() -> None:
    shares = stride_shares(both_trace().strides.numpy())
    picture = paint_shares(shares[None], width=1, height=8)
    grey, one, two, _, four = stride_colours(4)
    gap = np.full((2, 3), 255)
    # From above: who did not attend, then the largest stride, down to stride 1; an eighth of the clips is a pixel.
    layers = [[two] * 2 + [one] * 6, [grey] * 4 + [two] * 4, [four] * 6 + [two] * 2]
    expected = np.concatenate([np.concatenate([np.array(layer), gap]) for layer in layers])
    np.testing.assert_array_equal(picture[:, 0], expected)


def test_a_column_per_epoch() -> None:
    shares = np.stack([stride_shares(both_trace().strides.numpy())] * 5)
    assert paint_shares(shares, width=3).shape == (3 * 50, 15, 3)


def test_strides_go_from_dark_to_light_whatever_the_largest() -> None:
    for largest in (1, 2, 4, 8):
        lightness = stride_colours(largest)[1:].astype(int) @ [299, 587, 114]
        assert len(lightness) == largest
        assert (np.diff(lightness) > 0).all()


def test_captions_leave_the_picture_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    framed = captioned(picture, title="title", rows=["a", "b"], columns=["0", "1", "2"], below="layer")
    rows, columns = framed.shape[0] - 39, framed.shape[1] - 59
    found = [(y, x) for y, x in np.ndindex(rows, columns) if (framed[y : y + 40, x : x + 60] == picture).all()]
    assert len(found) == 1


def test_a_long_name_is_cut_and_does_not_leave_the_picture() -> None:
    cells = history_cells(jump_trace())
    long = history_picture(cells, ["a/rather/long/folder/" + "n" * 100 + ".wav"] * 4)
    assert 350 < long.shape[1] < 480
    assert (long[:, :3] == 255).all()  # a margin remains


def test_pattern_picture_of_a_thousand_epochs_is_no_wider_than_a_screen() -> None:
    shares = np.stack([stride_shares(both_trace().strides.numpy())] * 1000)
    picture = pattern_picture(shares, epochs=range(1000), layers=[0, 1, 2])
    assert picture.shape[1] < 350


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_mel_picture_of_silence_is_dark_all_over(level: float) -> None:
    picture = paint_mel(np.full((20, 8), level), scale=2)
    assert picture.shape == (16, 40, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_open_tokens_stand_under_the_frames_they_were_made_of() -> None:
    tokens = paint_tokens(np.array([[True, False], [False, True]]), frames=4, scale=3, height=6)
    assert tokens.shape == (12, 24, 3)
    blue, grey = HISTORY_COLOURS[RAN], HISTORY_COLOURS[JUMPED_OVER]
    assert [tuple(tokens[y, x]) for y, x in ((0, 0), (0, 11), (0, 12), (6, 11), (6, 12))] == [
        blue,
        blue,
        grey,
        grey,
        blue,
    ]
    whole = stacked(np.zeros((5, 20, 3), np.uint8), tokens)
    assert whole.shape == (5 + 4 + 12, 20, 3)
    np.testing.assert_array_equal(whole[9:], tokens[:, :20])


def test_confusion_is_white_where_nothing_is_and_blue_where_all_are() -> None:
    picture = paint_confusion(np.array([[2, 0], [1, 1]]), size=3)
    assert picture.shape == (6, 6, 3)
    assert tuple(picture[0, 0]) == HISTORY_COLOURS[RAN]
    assert tuple(picture[0, 3]) == (255, 255, 255)
    np.testing.assert_array_equal(picture[3, 0], picture[3, 3])
    assert (paint_confusion(np.array([[0, 0], [0, 1]]), size=1)[0] == 255).all()  # a class without clips
