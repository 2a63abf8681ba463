"""The HTML that reports are made of: one file that needs no network and no server, in light and dark, wide and narrow.

Everything given as text is escaped; pictures and sound travel inside the page as data.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from typing import TYPE_CHECKING

import soundfile
from jaxtyping import Float
from torch import Tensor

from hopscotch.plain import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 144
CSS_DOTS_PER_INCH = 96  # what a browser calls an inch
LONG = 60  # letters of a cell from which on its words are broken

STYLE = """
:root { color-scheme: light dark;
  --ink: #222; --paper: #fff; --faint: #666; --line: #ddd; --accent: #0a62a8; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --faint: #a0a0a0; --line: #3a3d42; --accent: #6db3f2; --warn: #4a3a12; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.3rem; } p, .warning { overflow-wrap: anywhere; }
a { color: var(--accent); } code, pre { font: 0.85rem/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.6rem; border: 1px solid var(--line); border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem 0.25rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
td.long { white-space: normal; min-width: 15rem; overflow-wrap: anywhere; }
pre.command { white-space: pre-wrap; overflow-wrap: anywhere; }
th { color: var(--faint); font-weight: 600; } td.number, th.number { text-align: right; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.side { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 1rem; }
.side figure { margin: 0.5rem 0; max-width: 100%; overflow-x: auto; } .side img { max-width: none; }
figcaption { color: var(--faint); font-size: 0.9rem; }
.warning { background: var(--warn); padding: 0.5rem 0.8rem; border-radius: 4px; margin: 0.4rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; } .facts div { min-width: 8rem; }
.facts b { display: block; font-size: 1.4rem; } .facts span { color: var(--faint); font-size: 0.9rem; }
audio { width: 8rem; height: 2rem; vertical-align: middle; }
"""


def escape(text: str) -> str:
    """Text that a browser takes for text, and whoever looks at the source in a terminal, too."""
    return escape_html(shown(text))


def page(title: str, body: Iterable[str]) -> str:
    """A whole document; `body` are parts made by the functions below, in order."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Of a part of a section."""
    return f"<h3>{escape(text)}</h3>"


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return "<pre>" + "\n".join(map(escape, text.split("\n"))) + "</pre>"


def command(text: str) -> str:
    """To be copied in one piece: shown on several lines where it is long, and yet one."""
    return f'<pre class="command">{escape(text)}</pre>'


def warning(text: str) -> str:
    return f'<div class="warning">{escape(text)}</div>'


def folded(title: str, content: str) -> str:
    """HTML that waits behind its title until it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def link(text: str, address: str) -> "Raw":
    """For a cell of a table."""
    return Raw(f'<a href="{escape(address)}">{escape(text)}</a>')


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A few large numbers with a word under each."""
    return (
        '<div class="facts">'
        + "".join(f"<div><b>{escape(value)}</b><span>{escape(word)}</span></div>" for word, value in pairs)
        + "</div>"
    )


class Raw(str):
    """HTML made by this file, not to be escaped again."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """`numbers` names the columns that stand to the right."""
    kinds = [' class="number"' if word in numbers else "" for word in head]
    lines = ["".join(f"<th{kind}>{escape(word)}</th>" for word, kind in zip(head, kinds, strict=True))]
    for row in rows:
        lines.append("".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)))
    return '<div class="wide"><table>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def _cell(text: str, kind: str) -> str:
    if isinstance(text, Raw):
        return f"<td{kind}>{text}</td>"
    long = ' class="long"' if len(text) > LONG else ""
    return f"<td{kind or long}>{escape(text)}</td>"


def picture(figure: "Figure", caption: str) -> str:
    """A matplotlib figure, on white in the dark too; the caption is also what a screen reader says."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH, facecolor="white")
    return image(file.getvalue(), caption, width=round(figure.get_figwidth() * CSS_DOTS_PER_INCH))


def image(png: bytes, caption: str, width: int | None = None) -> str:
    """`width` in CSS pixels; without it a pixel of the picture is one of the page."""
    words, size = escape(caption), "" if width is None else f' width="{width}"'
    address = data_address("image/png", png)
    return f'<figure><img src="{address}" alt="{words}"{size}><figcaption>{words}</figcaption></figure>'


def side_by_side(figures: Iterable[str]) -> str:
    """Pictures in a row where there is room, else below each other; one that is too wide is scrolled and not shrunk."""
    return f'<div class="side">{"".join(figures)}</div>'


def sound(waveform: Float[Tensor, " sample"], sample_rate: int, max_seconds: float) -> Raw:
    """A player, for a cell of a table: 16 bits, at most so long, scaled down where it would clip."""
    samples = waveform[: round(max_seconds * sample_rate)]
    samples = samples / samples.abs().max().clamp(min=1.0)
    file = io.BytesIO()
    soundfile.write(file, samples.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return Raw(f'<audio controls preload="none" src="{data_address("audio/wav", file.getvalue())}"></audio>')


def data_address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
