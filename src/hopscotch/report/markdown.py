"""Tables and text as Markdown has them."""

import re
from collections.abc import Iterable, Sequence

from hopscotch.plain import shown


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> str:
    """`numbers`: heads of columns that stand to the right. No line break at the end."""
    rule = ["---:" if word in numbers else "---" for word in head]
    lines = [list(map(escape, head)), rule, *(list(map(escape, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Letters that Markdown would take for its own."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", shown(" ".join(text.split())))
