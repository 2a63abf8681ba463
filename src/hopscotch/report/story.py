"""The parts that a report is told in, so that a page and a card say the same, each in its own way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    words: str


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    words: str


@dataclass(frozen=True)
class Warn:
    words: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Facts:
    """Large figures, each with a word."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()  # columns that stand to the right
    clips: Sequence[str] = ()  # path of the clip in each row, where a page can let it be heard


@dataclass(frozen=True)
class Drawn:
    """Pictures that stand side by side where there is room; a card goes without."""

    figures: Callable[[], Sequence[tuple["Figure", str]]]  # with captions


@dataclass(frozen=True)
class Stored:
    """A picture that lies in the run's folder."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Folded:
    """Long text to open when wanted; a card names the file."""

    title: str
    text: str
    file: str


Part = Text | Heading | Warn | Code | Facts | Table | Drawn | Stored | Folded


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part]
