"""The table of a study: jobs that differ in seed or left-out speaker joined, decisions judged against dealt ones.

`advantage` is the accuracy of a model's own decisions minus that of the same decisions dealt to the wrong clips, paired
clip by clip, averaged over seeds; its 95 % interval comes from drawing clips anew (bootstrap), for clips are what a
model will meet anew. How much another training would move it is another question: the interval over seeds is Student's.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from hopscotch.report.frontier import draw_frontier
from hopscotch.report.jobs import HIDDEN, at_budgets, each_once, label, read_json, read_overrides
from hopscotch.report.points import group_points, read_points
from hopscotch.report.statistics import Interval, bootstrap, student
from scripts.studies.thresholds import draw_thresholds

SETS = ("clean", "mixed")
SHOWN = {  # of study.csv, in study.md
    "what": "what",
    "runs": "runs",
    "acc": "accuracy",
    "acc_sd": "deviation",
    "macs_m": "M MACs",
    "fraction": "compute",
    "time": "time",
    "mixed_acc": "in noise",
    "advantage clean": "accuracy over dealt",
    "loss saved clean": "loss saved over dealt",
    "advantage mixed": "in noise: accuracy over dealt",
    "loss saved mixed": "in noise: loss saved over dealt",
    "loss saved mixed by seed": "in noise: loss saved, interval over seeds",
    "gain_correlation": "gain correlation",
    "entropy": "entropy",
    "routes": "routes",
    "common_routes": "common routes",
}


@dataclass(frozen=True)
class Point:
    """A finished run at one budget: its own, or one of those that the probe asked the model for."""

    folder: Path
    reach: float | None  # None: its own
    words: tuple[str, ...]  # what tells it from points of another row
    speaker: str  # left out; empty for none
    summary: dict[str, Any]
    found: dict[str, Any]  # of the probe: "clean" and "mixed"; empty without one

    @property
    def model(self) -> str:
        return str(self.summary["model"])

    @property
    def control(self) -> str:
        """The choice of `control` that the run was made with; empty for none."""
        return next((word.partition("=")[2] for word in self.words if word.startswith("control=")), "")

    @property
    def decides(self) -> bool:
        return not self.control and "dealt_acc" in self.found.get("mixed", {})

    @property
    def clean(self) -> dict[str, float]:
        """Accuracy, compute fraction and MACs of the test clips as they are."""
        if self.reach is None:
            return {"acc": self.summary["test"]["acc"], **self.summary["compute"]}
        return self.found["clean"]


def points_of(folder: Path) -> list[Point]:
    overrides = read_overrides(folder / "overrides.yaml")
    words = tuple(word for word in overrides if word.partition("=")[0] not in HIDDEN)
    speaker = next((word.partition("=")[2] for word in overrides if word.startswith("data.test_speaker=")), "")
    summary, found = read_json(folder / "summary.json"), read_json(folder / "report" / "adaptation.json")
    return [
        Point(folder, budget.get("reach"), told, speaker, summary, dict(budget) or found)
        for told, budget in at_budgets(words, found)
    ]


def report_study(folder: Path, beside: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Write study.csv (everything), study.md (what is read first) and frontier.png, and return the rows.

    `beside`: other studies whose runs stand in the same table and picture, such as the controls.
    """
    studies = each_once((folder, *beside))
    found = [path for where in studies for path in sorted(where.glob("*/summary.json"))]
    jobs = [path.parent for path in found if read_json(path)["status"] == "finished"]
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in (point for job in jobs for point in points_of(job)):
        groups.setdefault(point.words, []).append(point)
    if not groups:
        return []
    shared = set.intersection(*(set(words) for words in groups)) if len(groups) > 1 else set()
    rows = [
        {"what": label(word for word in words if word not in shared) or "all", **summarise(members)}
        for words, members in groups.items()
    ]
    decided = [point for members in groups.values() for point in members if point.decides]
    for model in sorted({point.model for point in decided}):
        of_model = [point for point in decided if point.model == model]
        if len({point.words for point in of_model}) > 1:
            rows.append({"what": f"{model}, all of these", **summarise(of_model)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "study.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    heads = SHOWN | {name: name.replace("fraction", "compute,") for name in columns if name.startswith("fraction ")}
    shown = [name for name in heads if name in columns]
    lines = [" | ".join(heads[name] for name in shown), "|".join(["---"] * len(shown))]
    lines += [" | ".join(written(row.get(name)) for name in shown) for row in rows]
    (folder / "study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    named: dict[Path, str] = {}
    for row, members in zip(rows, groups.values(), strict=False):
        named.setdefault(members[0].folder, row["what"])  # a run, not the budgets that it was asked for afterwards
    draw_thresholds({what: job for job, what in named.items()}, folder / "thresholds.png")
    draw_frontier(group_points([point for where in studies for point in read_points(where)]), folder)
    return rows


def summarise(points: Sequence[Point]) -> dict[str, Any]:
    """One row: means over the points, and what their clips say together."""
    accuracies = [point.clean["acc"] for point in points]
    row: dict[str, Any] = {
        "runs": len({point.folder for point in points}),
        "acc": mean(accuracies),
        "acc_sd": deviation_of_seeds(points),
        "macs_m": mean(point.clean["macs"] for point in points) / 1e6,
        "fraction": mean(point.clean["fraction"] for point in points),
        "seconds": mean(point.summary["seconds"]["fit"] for point in points),
    }
    found = [point.found for point in points]
    if not all(found):
        return row
    row["mixed_acc"] = mean(one["mixed"]["acc"] for one in found)
    row["mixed_loss"] = mean(one["mixed"]["loss"] for one in found)
    if all("conditions" in one for one in found):
        for place, condition in enumerate(one["condition"] for one in found[0]["conditions"]):
            row[f"fraction {condition}"] = mean(one["conditions"][place]["fraction"] for one in found)
            row[f"acc {condition}"] = mean(one["conditions"][place]["acc"] for one in found)
    if not all("dealt_acc" in one["mixed"] for one in found):
        return row
    if all("time_fraction" in one for one in found):
        row["time"] = mean(one["time_fraction"] for one in found)
    for name in ("short_acc", "full_acc", "gain_correlation", "entropy", "routes", "common_routes"):
        known = [one["mixed"][name] for one in found if one["mixed"][name] is not None]
        row[name] = mean(known) if known else None
    for name in SETS:
        row[f"advantage {name}"] = advantage(points, name, "own_acc", "dealt_acc")
        row[f"loss saved {name}"] = advantage(points, name, "dealt_loss", "own_loss")
        saved = seed_means(points, lambda point, name=name: point.found[name]["dealt_loss"] - point.found[name]["loss"])
        row[f"loss saved {name} by seed"] = student(saved)
        row[f"compute beside dealt {name}"] = mean(one[name]["fraction"] - one[name]["dealt_fraction"] for one in found)
    return row


def deviation_of_seeds(points: Sequence[Point]) -> float | None:
    """None with fewer than two seeds."""
    means = seed_means(points, lambda point: point.clean["acc"])
    return stdev(means) if len(means) > 1 else None


def seed_means(points: Sequence[Point], value: Callable[[Point], float]) -> list[float]:
    """Of each seed the mean over left-out speakers and budgets, where it has all that any seed has."""
    by_seed: dict[int, dict[tuple[object, ...], float]] = {}
    for point in points:
        by_seed.setdefault(point.summary["seed"], {})[(point.speaker, *point.words)] = value(point)
    everything = set().union(*by_seed.values())
    return [mean(values.values()) for values in by_seed.values() if values.keys() == everything]


def advantage(points: Sequence[Point], name: str, better: str, worse: str) -> Interval:
    """Mean over clips of `better` minus `worse`, each clip's own mean over the points that tested it."""
    by_clip: dict[str, list[float]] = {}
    for point in points:
        reach = "" if point.reach is None else str(point.reach)
        with (point.folder / "report" / "adaptation.csv").open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["set"] == name and line.get("reach", "") == reach:
                    by_clip.setdefault(line["clip"], []).append(float(line[better]) - float(line[worse]))
    return bootstrap(np.array([mean(values) for values in by_clip.values()]))


def written(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
