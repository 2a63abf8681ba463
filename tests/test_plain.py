"""Files from anywhere are plain data or one sentence, and names from anywhere are shown as they are written."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hopscotch import plain
from hopscotch.config.compose import compose


@pytest.mark.parametrize("model", ["dense", "learned_skip", "jump_attention"])
def test_a_configuration_is_read_as_omegaconf_wrote_it(model: str, tmp_path: Path) -> None:
    words = ['trainer.max_time="00:01:00:00"', "optimizer.lr=1e-12", 'data.cache_dir="2026-11-28"']
    cfg = compose([f"model={model}", *words])
    cfg.run_dir = "/runs/yes"
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(cfg, resolve=True))
    assert plain.read_config(path) == OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("~", None),
        ("null", None),
        ("yes", "yes"),
        ("2026-11-28", "2026-11-28"),
        ("1:20", "1:20"),
        ("0x10", "0x10"),
        ("'5'", "5"),
        ("9" * 40, 10**40 - 1),
    ],
)
def test_numbers_and_texts_are_told_apart_as_omegaconf_writes_them(written: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {written}\n")
    assert plain.read_yaml(path) == {"a": value}


@pytest.mark.parametrize("number", ["9" * 41, "0." + "1" * 100])
def test_a_number_of_many_digits_is_refused(number: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"a: {number}\n")
    with pytest.raises(ValueError, match=r"a\.yaml must be plain YAML, got a number of too many digits \(line 1\)\.$"):
        plain.read_yaml(tmp_path / "a.yaml")


def test_an_error_names_file_and_line_and_nothing_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb: 'secret'secret\n")
    with pytest.raises(ValueError, match=r"a\.yaml must be plain YAML, got .* \(line 2\)\.$") as caught:
        plain.read_yaml(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "'=1", "''=1", "'", "'a", "a=1", "", "\r"])
def test_a_cell_that_begins_as_a_formula_is_quoted_and_read_back(text: str) -> None:
    cell = plain.quoted(text)
    assert isinstance(cell, str)
    assert not cell.startswith(plain.FORMULA)
    assert plain.unquoted(cell) == text


def test_numbers_are_not_quoted() -> None:
    assert [plain.quoted(cell) for cell in (-1, -0.5, None)] == [-1, -0.5, None]


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert plain.shown("a\x1b[2J\n\u202eb é 日 \u2028") == r"a\x1b[2J\n\u202eb é 日 \u2028"
    assert plain.sentence(ValueError("first\n  second\x07")) == r"first second\x07"


@pytest.mark.parametrize("content", ["a,b\n1\n", "a,b\n1,2,3\n"])
def test_a_ragged_table_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"a\.csv must have a cell for each column in every row, row 1 has not\."):
        plain.read_csv(tmp_path / "a.csv")


def test_cells_with_line_breaks_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n"x\ny",\'=1\n')
    assert plain.read_csv(tmp_path / "a.csv") == [{"a": "x\ny", "b": "=1"}]
