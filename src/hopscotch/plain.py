"""Read what a folder from anywhere holds as plain data, and show what it says as plain text.

The files of a run's folder may come from a stranger: here they are numbers, texts, lists and maps, of a bounded size.
YAML tags, anchors and aliases are refused, an interpolation is a text. Every error is a ValueError of one sentence
that names the file, and never shows what stands in it: the file may be a link to one that is no run's.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml

MAX_YAML = 2**19  # bytes; a config.yaml has some 6000
MAX_JSON = 2**26  # bytes of one object
MAX_TABLE = 2**29  # bytes of a table or log with a row for each clip or step
MAX_NESTING = 32
MAX_EVENTS = 20_000  # of the parser: keys, values, beginnings and ends
MAX_DIGITS = 40  # of a number
MAX_FIELD = 2**20  # characters of a cell

# The core schema: what `OmegaConf.to_yaml` writes without quotes. YAML 1.1 has more (dates, base 60), and slower ones.
SCALARS = (
    ("null", r"(?:~|null|Null|NULL|)", [*list("~nN"), ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
)
BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast, and not in every build


class _Loader(BASE):
    """A safe loader that knows the core schema alone: no merge keys, dates, sets or binaries, no key twice."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no text", problem_mark=key_node.start_mark)
            key = str(key_node.value)
            if key in found:
                raise yaml.MarkedYAMLError(problem="a key that is there twice", problem_mark=key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        word = str(node.value).lower()
        if len(word) > MAX_DIGITS:
            raise yaml.MarkedYAMLError(problem="a number of too many digits", problem_mark=node.start_mark)
        if node.tag.endswith(":int"):
            return int(word)
        return float(word.replace(".inf", "inf").replace(".nan", "nan"))


for _name, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^{_pattern}$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: loader.construct_mapping(node))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def read_text(path: Path, most: int) -> str:
    """Read a text of at most `most` bytes; no more are read, whatever size the file claims."""
    if not path.is_file():
        raise ValueError(f"{shown(path)} must be a file, and is not there.")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read: {error.strerror}.") from None
    if len(content) > most:
        raise ValueError(f"{shown(path)} must have at most {most} bytes, it has more.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)} must be text in UTF-8, it is none from byte {error.start} on.") from None


def read_yaml(path: Path) -> Any:
    """Read plain data out of a YAML file: maps with texts as keys, lists, texts, numbers, true, false and null."""
    text = read_text(path, MAX_YAML)
    try:
        _refuse_bombs(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ValueError(f"{shown(path)} must be plain YAML, got {_without_content(problem)}{where}.") from None


def _without_content(problem: str) -> str:
    """Drop from a parser's complaint the words and tags that it quotes from the file."""
    return " ".join(re.sub(r"(['\"`]).*\1", "...", problem, flags=re.DOTALL).split())


def _refuse_bombs(text: str) -> None:
    """Look at all events before anything is built, for few lines can describe a great deal."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=BASE)):
        fault = ""
        if isinstance(event, yaml.AliasEvent):
            fault = "an alias"
        elif getattr(event, "anchor", None) is not None:
            fault = "an anchor"
        elif getattr(event, "tag", None) is not None:
            fault = "a tag"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            fault = f"more than {MAX_NESTING} levels of nesting"
        if number > MAX_EVENTS:
            fault = "more keys and values than any run has"
        if fault:
            raise yaml.MarkedYAMLError(problem=fault, problem_mark=event.start_mark)


def read_config(path: Path) -> dict[str, Any]:
    """Read a stored configuration; a value that refers to another one is refused."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ValueError(f"{shown(path)} must be a map of keys, got {_kind(config)}.")
    for key, node in nodes(config):
        if "${" in key or (isinstance(node, str) and "${" in node):
            raise ValueError(f"{shown(path)} must have every value resolved, {shown(key)} still has ${{...}}.")
    return config


def joined(path: str, key: object) -> str:
    """Append a key to the path of the keys above."""
    return f"{path}.{key}" if path else str(key)


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a node and everything below, each with the path of its keys; what is above comes first."""
    yield path, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from nodes(child, joined(path, key))


def literal(node: Any) -> Any:
    """Escape data for OmegaConf, so that every reference in it stays a text."""
    if isinstance(node, str):
        return node.replace("${", "\\${")
    if isinstance(node, list):
        return [literal(child) for child in node]
    return {key: literal(child) for key, child in node.items()} if isinstance(node, dict) else node


def read_words(path: Path) -> list[str]:
    """Read a list of texts as they were typed; no file is no text."""
    words = read_yaml(path) if path.is_file() else []
    if not isinstance(words, list) or any(isinstance(word, dict | list) for word in words):
        raise ValueError(f"{shown(path)} must be a list of texts, got {_kind(words)}.")
    return [str(word) for word in words]


def read_json(path: Path) -> dict[str, Any]:
    """Read the object that a JSON file holds; no file is an empty one."""
    content = read_text(path, MAX_JSON) if path.is_file() else "{}"
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "a number or nesting too large"
        raise ValueError(f"{shown(path)} must be JSON: it cannot be parsed ({where}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{shown(path)} must be a JSON object, got {_kind(found)}.")
    return found


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a log, one a line; a line that a kill or a full disk cut short is passed over."""
    found = []
    content = read_text(path, MAX_TABLE) if path.is_file() else ""
    for number, line in enumerate(content.split("\n"), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        except (RecursionError, ValueError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{shown(path)} must have a JSON object in each line, line {number} is none.")
        found.append(row)
    return found


def read_csv(path: Path, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Read the rows of a table by the heads of its columns, among them `columns`; no file is no row."""
    if not path.is_file():
        return []
    lines = io.StringIO(read_text(path, MAX_TABLE), newline="")  # a name may have a line break of any kind
    csv.field_size_limit(MAX_FIELD)
    try:
        reader = csv.DictReader(lines)
        rows, heads = list(reader), reader.fieldnames or ()
    except csv.Error as error:
        raise ValueError(f"{shown(path)} must be a table in CSV: {error}.") from None
    if missing := [head for head in columns if head not in heads]:
        raise ValueError(f"{shown(path)} must have a column {missing[0]}, it has none.")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{shown(path)} must have a cell for each column in every row, row {number} has not.")
    return [{head: unquoted(cell) for head, cell in row.items()} for row in rows]


def _kind(value: Any) -> str:
    kinds = {dict: "a map", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


FAULTS = (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError)


@contextmanager
def as_written(path: object) -> Iterator[None]:
    """Turn what files raise that are not as a run writes them into a ValueError of one sentence."""
    try:
        yield
    except FAULTS as error:
        got = f"{type(error).__name__}: {sentence(error)}"
        raise ValueError(f"{shown(path)} must be as a run of this version writes it, got {got}") from error


# Texts that a spreadsheet would run, or a terminal obey.

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def quoted(cell: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would take for a formula, and before one that has it already.

    Numbers and null stay as they are; `unquoted` gives the text back.
    """
    is_text = isinstance(cell, str) and cell.lstrip("'").startswith(FORMULA)
    return f"'{cell}" if is_text else cell


def unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(FORMULA) else cell


def shown(text: object) -> str:
    r"""Escape everything that a terminal would obey or a line would end at: \x1b, \n, \u202e."""
    signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in str(text))
    return "".join(signs)


def sentence(error: object) -> str:
    """Put what is wrong into one line that can be printed."""
    return shown(re.sub(r"\s*[\r\n]+\s*", " ", str(error).strip()))
