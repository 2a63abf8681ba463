"""Spans by hand: what was heard opens units around it, spans become pieces, a ceiling closes what is too much."""

import pytest
import torch

from hopscotch.models.spans import Ceiling, Piece, pieces, runs, widened


def opened(text: str) -> list[bool]:
    return [sign == "#" for sign in text]


def test_a_unit_opens_some_ahead_of_it_and_more_behind_it() -> None:
    scores = torch.full((2, 9), -3.0)
    scores[0, 4] = 2.0
    scores[1, 0], scores[1, 8] = 1.0, 4.0
    wide = widened(scores, before=1, after=2)
    assert ["".join("#" if score > 0 else "." for score in row) for row in wide] == ["...####..", "###....##"]
    assert wide[1, -1] == 4.0


def test_spans_that_touch_are_one() -> None:
    assert list(runs(opened(".##.#..###"))) == [(1, 3), (4, 5), (7, 10)]
    assert list(runs(opened("..."))) == list(runs([])) == []
    scores = torch.tensor([[1.0, -1, -1, -1, 1.0, -1, -1, -1, -1, 1.0]])
    assert list(runs((widened(scores, before=1, after=2) > 0)[0].tolist())) == [(0, 7), (8, 10)]


def test_context_has_no_results_but_at_the_ends_of_the_recording() -> None:
    found = list(pieces([(0, 8), (10, 17), (20, 30)], 30, context=2, longest=100))
    assert found == [Piece(0, 8, 0, 6), Piece(10, 17, 12, 15), Piece(20, 30, 22, 30)]


def test_a_long_span_is_cut_and_every_part_has_its_context() -> None:
    found = list(pieces([(5, 26)], 40, context=2, longest=7))
    assert found == [Piece(5, 16, 7, 14), Piece(12, 23, 14, 21), Piece(19, 26, 21, 24)]
    assert [unit for piece in found for unit in range(piece.core_start, piece.core_end)] == list(range(7, 24))


def test_a_span_that_is_all_context_is_its_own_core() -> None:
    assert list(pieces([(3, 7)], 40, context=2, longest=7)) == [Piece(3, 7, 3, 7)]


def test_a_ceiling_keeps_its_share_and_opens_again_once_enough_is_saved() -> None:
    ceiling = Ceiling(0.25, most=6.0, least=3.0)
    allowed = [ceiling.allows(True) for _ in range(400)]
    assert sum(allowed) <= 0.25 * 400 + 6.0
    assert sum(allowed) >= 0.25 * 400
    lengths = [end - start for start, end in runs(allowed)]
    assert lengths[0] == 7  # what was saved, and what was earned meanwhile
    assert min(lengths[:-1]) >= 3


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_ceiling_opens_nothing_that_is_not_wanted(share: float) -> None:
    ceiling = Ceiling(share, most=5.0, least=2.0)
    wanted = opened("..#...##....")
    assert [ceiling.allows(one) for one in wanted] == wanted
