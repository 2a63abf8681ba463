"""json_text.py: what it writes, every reader of JSON takes."""

import json
import math

import pytest

from hopscotch.report.json_text import json_text


def test_what_is_no_number_is_null_at_any_depth_and_the_rest_stays() -> None:
    content = {"a": [1, 2.5, math.nan], "b": {"c": -math.inf, "d": None}, "e": (True, "nan", math.inf)}
    read = json.loads(json_text(content), parse_constant=pytest.fail)
    assert read == {"a": [1, 2.5, None], "b": {"c": None, "d": None}, "e": [True, "nan", None]}
    assert json_text({"é": [1.5]}, indent=2) == json.dumps({"é": [1.5]}, indent=2)
