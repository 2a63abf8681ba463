"""The table of a study: jobs that differ in seed or left-out speaker joined, decisions judged against dealt ones.

`advantage` is the accuracy of a model's own decisions minus that of the same decisions dealt to the wrong clips, paired
clip by clip, averaged over seeds; its 95 % interval comes from drawing clips anew (bootstrap), for clips are what a
model will meet anew.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from jaxtyping import Float

from hopscotch.report.frontier import draw_frontier
from hopscotch.report.jobs import Job, make_job, read_json, read_overrides
from hopscotch.report.thresholds import draw_thresholds

NUM_DRAWS = 2000  # of the bootstrap
JOINED = ("seed", "data.test_speaker")  # what does not tell rows apart
HIDDEN = (*JOINED, "data.root", "trainer.enable_progress_bar", "hydra.run.dir")
SETS = ("clean", "mixed")
SHOWN = {  # of study.csv, in study.md
    "what": "what",
    "runs": "runs",
    "acc": "accuracy",
    "acc_sd": "deviation",
    "macs_m": "M MACs",
    "fraction": "compute",
    "mixed_acc": "in noise",
    "advantage clean": "accuracy over dealt",
    "loss saved clean": "loss saved over dealt",
    "advantage mixed": "in noise: accuracy over dealt",
    "loss saved mixed": "in noise: loss saved over dealt",
    "gain_correlation": "gain correlation",
    "entropy": "entropy",
    "routes": "routes",
    "common_routes": "common routes",
}


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def report_study(folder: Path, beside: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Write study.csv (everything), study.md (what is read first) and frontier.png, and return the rows.

    `beside`: other studies whose runs stand in the same table and picture, such as the controls.
    """
    found = [path for where in (folder, *beside) for path in sorted(where.glob("*/summary.json"))]
    jobs = [path.parent for path in found if read_json(path)["status"] == "finished"]
    groups: dict[tuple[str, ...], list[Path]] = {}
    for job in jobs:
        words = [word for word in read_overrides(job / "overrides.yaml") if word.partition("=")[0] not in HIDDEN]
        groups.setdefault(tuple(words), []).append(job)
    if not groups:
        return []
    shared = set.intersection(*(set(words) for words in groups)) if len(groups) > 1 else set()
    rows = [
        {"what": label([word for word in words if word not in shared]), **summarise(members)}
        for words, members in groups.items()
    ]
    decided = [job for job in jobs if (job / "report" / "adaptation.json").exists() and not control_of(job)]
    models = {str(read_json(job / "summary.json")["model"]) for job in decided}
    pooled = [
        {"what": f"{model}, all of these", **summarise(members)}
        for model in sorted(models)
        if len(members := [job for job in decided if read_json(job / "summary.json")["model"] == model]) > 1
    ]
    rows += [row for row in pooled if len(groups) > 1 and "dealt" in " ".join(row)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "study.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    shown = [name for name in SHOWN if name in columns]
    lines = [" | ".join(SHOWN[name] for name in shown), "|".join(["---"] * len(shown))]
    lines += [" | ".join(written(row.get(name)) for name in shown) for row in rows]
    (folder / "study.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    named = {row["what"]: members[0] for row, members in zip(rows, groups.values(), strict=False)}
    draw_thresholds(named, folder / "thresholds.png")
    draw_frontier([frontier_job(job) for job in jobs], folder / "frontier.png")
    return rows


def frontier_job(folder: Path) -> Job:
    """A run as a point of the frontier: seeds and speakers fall together, controls go by their own name."""
    words = [word for word in read_overrides(folder / "overrides.yaml") if word.partition("=")[0] not in HIDDEN]
    job, control = make_job(folder.name, words, read_json(folder / "summary.json"), "finished"), control_of(folder)
    return replace(job, model=f"control: {control.partition('_')[0]}") if control else job


def control_of(folder: Path) -> str:
    """The choice of `control` that a run was made with; empty for none."""
    words = read_overrides(folder / "overrides.yaml")
    return next((word.partition("=")[2] for word in words if word.startswith("control=")), "")


def label(words: Sequence[str]) -> str:
    """What tells a row apart, without the paths of its keys: model=dense compute.reach=0.2 -> dense, reach 0.2."""
    told = [word.partition("=") for word in words if not word.startswith("experiment=")]
    heads = [value for key, _, value in told if key in ("model", "control")]
    return (
        ", ".join([*heads, *(f"{k.rpartition('.')[2]} {v}" for k, _, v in told if k not in ("model", "control"))])
        or "all"
    )


def summarise(jobs: Sequence[Path]) -> dict[str, Any]:
    """One row: means over the jobs, and what their clips say together."""
    summaries = [read_json(job / "summary.json") for job in jobs]
    accuracies = [summary["test"]["acc"] for summary in summaries]
    row: dict[str, Any] = {
        "runs": len(jobs),
        "acc": mean(accuracies),
        "acc_sd": stdev(accuracies) if len(accuracies) > 1 else None,
        "macs_m": mean(summary["compute"]["macs"] for summary in summaries) / 1e6,
        "fraction": mean(summary["compute"]["fraction"] for summary in summaries),
        "seconds": mean(summary["seconds"]["fit"] for summary in summaries),
    }
    found = [read_json(job / "report" / "adaptation.json") for job in jobs]
    if not all(found):
        return row
    row["mixed_acc"] = mean(one["mixed"]["acc"] for one in found)
    row["mixed_loss"] = mean(one["mixed"]["loss"] for one in found)
    for place, condition in enumerate(one["condition"] for one in found[0]["conditions"]):
        row[f"fraction {condition}"] = mean(one["conditions"][place]["fraction"] for one in found)
        row[f"acc {condition}"] = mean(one["conditions"][place]["acc"] for one in found)
    if "dealt_acc" not in found[0]["mixed"]:
        return row
    for name in ("short_acc", "full_acc", "gain_correlation", "entropy", "routes", "common_routes"):
        row[name] = mean(one["mixed"][name] for one in found)
    for name in SETS:
        row[f"advantage {name}"] = advantage(jobs, name, "own_acc", "dealt_acc")
        row[f"loss saved {name}"] = advantage(jobs, name, "dealt_loss", "own_loss")
        row[f"compute beside dealt {name}"] = mean(one[name]["fraction"] - one[name]["dealt_fraction"] for one in found)
    return row


def advantage(jobs: Sequence[Path], name: str, better: str, worse: str) -> Interval:
    """Mean over clips of `better` minus `worse`, each clip's own mean over the jobs that tested it."""
    by_clip: dict[str, list[float]] = {}
    for job in jobs:
        with (job / "report" / "adaptation.csv").open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["set"] == name:
                    by_clip.setdefault(line["clip"], []).append(float(line[better]) - float(line[worse]))
    return bootstrap(np.array([mean(values) for values in by_clip.values()]))


def bootstrap(values: Float[np.ndarray, " clip"]) -> Interval:
    """The mean of the values with its 95 % interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(NUM_DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def written(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
