"""Say in words what a clip did, for text that a person reads."""

from collections.abc import Sequence

from hopscotch.report.clips import SplitClips
from hopscotch.report.traces import Evaluation
from hopscotch.types import SkipTrace


def route_in_words(trace: SkipTrace, row: int) -> str:
    """Layers that ran, in order, with a jump marked where there was one: `0 1 ⤳ 4 5`."""
    layers = trace.visited[row].nonzero().flatten().tolist()
    return " ".join(f"⤳ {layer}" if trace.landings[row, layer] else str(layer) for layer in layers)


def strides_in_words(trace: SkipTrace, row: int) -> str:
    """Stride per layer, in order, a dot where the layer did not attend: `1 2 · 4`."""
    return " ".join(str(stride) if stride else "·" for stride in trace.strides[row].tolist())


def routes_table(evaluation: Evaluation, rows: Sequence[int], clips: SplitClips, *, strides: bool, jumps: bool) -> str:
    """What some clips did, as a Markdown table: one line per clip."""
    trace = evaluation.trace
    heads = ["clip", "is", "taken for", *(["route"] if jumps else []), *(["strides"] if strides else []), "compute"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        label, prediction = int(evaluation.labels[row]), int(evaluation.predictions[row])
        cells = [clips.name(int(evaluation.indices[row])), clips.word(label), clips.word(prediction)]
        cells += [route_in_words(trace, row)] if jumps else []
        cells += [strides_in_words(trace, row)] if strides else []
        lines.append(f"| {' | '.join([*cells, f'{trace.fraction[row]:.3f}'])} |")
    return "\n".join(lines)
