"""Hold the repository to its house rules: sizes, and one home for the word "acc"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "hopscotch"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES_OF_A_FUNCTION = 60  # constructors excepted
# Of all Python files in a folder, or of a page. The first two may only fall: 11,500 and 3,400 are wanted.
MOST_LINES = {
    "src/hopscotch": 29_861,
    "src/hopscotch/report": 3_722,
    "README.md": 200,
}
# Nothing else spells "acc"; monitors know the tags of classification before torch is imported.
ACCURACY_HOMES = {"training/classify.py", "answers.py", "metrics.py", "config/monitors.py"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(path: Path) -> int:
    files = path.rglob("*.py") if path.is_dir() else [path]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


@pytest.mark.parametrize("place", MOST_LINES)
def test_a_place_does_not_outgrow_its_limit(place: str) -> None:
    assert length(ROOT / place) <= MOST_LINES[place]


def test_no_function_is_long() -> None:
    lines = {
        f"{path.relative_to(PACKAGE)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in MODULES
        for function in functions(path)
        if function.name != "__init__"
    }
    assert len(lines) > 500
    assert {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION} == {}


def test_only_a_task_of_classification_spells_acc() -> None:
    found = set()
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        if any(text == "acc" or text.endswith("/acc") for text in texts):
            found.add(str(path.relative_to(PACKAGE)))
    assert found <= ACCURACY_HOMES
