"""JSON that every reader takes: null where a number is NaN or infinite, for which JSON has no word."""

import json
import math
from typing import Any


def json_text(content: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
