"""Draw thresholds and open rates over the epochs of several runs: does a rule close every token, or open all?"""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from hopscotch.plain import read_json_lines
from hopscotch.report.paint import COLOURS, new_figure, save

STYLES = ("-", "--", ":", "-.")  # of lines that share a colour
THRESHOLD, OPEN_RATE = "gate/threshold/layer_", "gate/open_rate/layer_"


def read_gates(run: Path) -> dict[str, list[tuple[float, float, float]]]:
    """Map each tag prefix to the lowest layer, the mean and the highest layer at every validation."""
    found: dict[str, list[tuple[float, float, float]]] = {THRESHOLD: [], OPEN_RATE: []}
    latest: dict[str, float] = {}
    for line in read_json_lines(run / "metrics.jsonl"):
        latest |= {tag: value for tag, value in line.items() if tag.startswith(THRESHOLD)}
        rates = [value for tag, value in line.items() if tag.startswith(OPEN_RATE)]
        if not rates:
            continue
        found[OPEN_RATE].append((min(rates), mean(rates), max(rates)))
        found[THRESHOLD].append((min(latest.values()), mean(latest.values()), max(latest.values())))
    return found


def draw_thresholds(runs: Mapping[str, Path], path: Path) -> bool:
    """Draw a line per run for the mean over layers, shaded from lowest to highest layer; return False without gates."""
    series = {name: read_gates(run) for name, run in runs.items()}
    series = {name: gates for name, gates in series.items() if gates[OPEN_RATE]}
    if not series:
        return False
    figure, panels = new_figure(9.0, 3.8, 1, 2)
    for axes, (prefix, words) in zip(
        panels, ((THRESHOLD, "threshold"), (OPEN_RATE, "share of open tokens, validation")), strict=True
    ):
        for number, (name, gates) in enumerate(series.items()):
            turn, place = divmod(number, len(COLOURS))
            colour, style = COLOURS[place], STYLES[turn % len(STYLES)]
            low, middle, high = zip(*gates[prefix], strict=True)
            epochs = range(1, len(middle) + 1)
            axes.plot(epochs, middle, style, color=colour, label=name if prefix == THRESHOLD else None)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="epoch", ylabel=words, ylim=(-0.02, 1.02))
    figure.legend(loc="outside right upper", frameon=False)
    save(figure, path)
    return True
