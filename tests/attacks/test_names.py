"""Names of files and classes are shown, and not obeyed: by a terminal, a browser or a spreadsheet."""

import csv
import io
import time
from pathlib import Path

import pytest

from hopscotch.plain import FORMULA
from hopscotch.report.clips import read_clips
from hopscotch.run import attempt
from tests.attacks.guard import call
from tests.tiny import tiny_config, write_tone

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = (
    "\x1b]0;PWNED\x07",
    "\x1b[2J\x1b[H",
    "a\nError: forged",
    "a\rb",
    "\u202egnp.exe",
    "a\u2028b",
    "a\x9b31mb",
    "=cmd|' C'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "'=1",
    "<script>alert(1)<",
    '" onmouseover="alert(1)',
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "[red]x[",
    "$(id)",
    "`id`",
    "%s%n{0}",
    "$\\frac$",
)


def controls(text: str) -> list[str]:
    """Every sign that a terminal would obey."""
    return [sign for sign in text if not (sign.isprintable() or sign == "\n")]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on classes and clips of these names."""
    root = tmp_path_factory.mktemp("named")
    for number, name in enumerate(NAMES):
        for i in range(3):
            write_tone(root / "tones" / name / f"{i}{name.replace('/', '')}.wav", 300 * (1 + 0.1 * number), 0.12)
    run = root / "run"
    summary = attempt(tiny_config(root / "tones", run, "model=dense"), run, [], time.time(), is_job=False)
    assert summary["status"] == "finished", summary
    return run


def test_pages_and_cards_hold_no_escapes_and_no_markup_of_a_name(named: Path) -> None:
    page = (named / "report" / "index.html").read_text(encoding="utf-8")
    card = (named / "README.md").read_text(encoding="utf-8")
    assert controls(page + card) == []
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<img" not in card.replace(r"\<img", "")  # so Markdown has a letter that stands for itself
    assert r"\x1b]0;PWNED\x07" in page
    assert 'onmouseover="alert' not in page


def test_cells_are_no_formulas_and_are_read_back_exactly(named: Path) -> None:
    path = named / "report" / "clips.csv"
    cells = [cell for row in csv.reader(path.open(newline="", encoding="utf-8")) for cell in row]
    texts = [cell for cell in cells if not cell.lstrip("-").replace(".", "").isdecimal()]
    assert [cell for cell in texts if cell.startswith(FORMULA)] == []
    assert {row.label for row in read_clips(path)} == set(NAMES)


def test_an_evaluation_shows_and_writes_names(
    named: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = call("evaluate", [f"run={named}"], capsys)
    assert ended.code == 0, ended.err
    assert controls(ended.out + ended.err) == []
    assert r"\x1b[2J" in ended.out
    for name in ("per_class.md", "conditions.md"):
        assert controls((named / "report" / "evaluation" / name).read_text(encoding="utf-8")) == []
    table = (named / "report" / "evaluation" / "per_class.csv").read_text(encoding="utf-8")
    labels = [row["label"] for row in csv.DictReader(io.StringIO(table, newline=""))]
    assert [label for label in labels if label.startswith(FORMULA)] == []


@pytest.mark.parametrize("form", ["table", "--json", "--csv"])
def test_a_prediction_shows_names(
    named: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        write_tone(tmp_path / "clips" / f"{name}.wav", 300, 0.12)
        (tmp_path / "clips" / f"{name}.broken.wav").write_bytes(b"RIFF")
    words = [f"run={named}", tmp_path / "clips", *([] if form == "table" else [form])]
    ended = call("predict", words, capsys)
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert controls(ended.err) == []
    assert len(ended.errors) == len(NAMES)
    assert len(lines) == len(NAMES) + 1  # the last one counts them
    if form == "--csv":
        rows = list(csv.DictReader(io.StringIO(ended.out, newline="")))
        assert [row for row in rows for cell in row.values() if cell.startswith(FORMULA)] == []
    assert controls(ended.out) == []
