"""text.py: numbers and tables as people read them, and JSON that every reader takes."""

import json
import math

import pytest

from hopscotch.report.text import Table, json_text, markdown, number, percent


def test_a_number_has_its_digits_and_what_is_none_is_blank() -> None:
    assert [number(0.12345), number(2.0, 1), number(None), number(math.nan)] == ["0.1235", "2.0", "", ""]
    assert percent([0.5, 0.0, math.nan]) == ["50%", "·", ""]


def test_a_markdown_table_escapes_what_markdown_would_take_for_its_own() -> None:
    table = Table(["a|b", "n"], [["<x>", "1"]], numbers=["n"])
    assert markdown(table).splitlines() == [r"| a\|b | n |", "| --- | ---: |", r"| \<x\> | 1 |"]


def test_what_is_no_number_is_null_at_any_depth_and_the_rest_stays() -> None:
    content = {"a": [1, 2.5, math.nan], "b": {"c": -math.inf, "d": None}, "e": (True, "nan", math.inf)}
    read = json.loads(json_text(content), parse_constant=pytest.fail)
    assert read == {"a": [1, 2.5, None], "b": {"c": None, "d": None}, "e": [True, "nan", None]}
    assert json_text({"é": [1.5]}, indent=2) == json.dumps({"é": [1.5]}, indent=2)
