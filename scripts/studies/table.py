"""Make the table of a study again from what is finished, without running anything.

    python -m scripts.studies table outputs/study_routes
    python -m scripts.studies table outputs/study_frontier_fsdd --beside outputs/study_frontier_baselines

Written into the folder: study.csv (everything), study.md (what is read first), frontier.png and thresholds.png. A row
joins the runs that differ in seed or held-out speaker.

`advantage` is the accuracy of a model's own decisions minus that of the same decisions shuffled over the clips, paired
clip by clip and averaged over seeds. Its 95 % interval comes from drawing clips again (bootstrap), because other clips
are what a model will meet. How much another training would change it is another question: the interval over seeds is
Student's.
"""

import argparse
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hopscotch.files import refuse_links
from hopscotch.intervals import Units, bootstrap, student
from hopscotch.plain import quoted, shown
from hopscotch.report.frontier import draw_frontier
from hopscotch.report.records import (
    Group,
    Record,
    at_budgets,
    each_once,
    group,
    group_records,
    points_of,
    read_records,
    spread_of,
)
from hopscotch.report.text import Table, markdown
from hopscotch.sweep import cell
from scripts.studies.thresholds import draw_thresholds

SETS = ("clean", "mixed")
PAIRS = {"advantage": ("own_acc", "shuffled_acc"), "loss saved": ("shuffled_loss", "own_loss")}  # better, worse
SHOWN = {  # of study.csv, in study.md
    "what": "what",
    "runs": "runs",
    "acc": "accuracy",
    "acc_sd": "deviation",
    "macs_m": "M MACs",
    "fraction": "compute",
    "time": "time",
    "mixed_acc": "in noise",
    "advantage clean": "accuracy over shuffled",
    "loss saved clean": "loss saved over shuffled",
    "advantage mixed": "in noise: accuracy over shuffled",
    "loss saved mixed": "in noise: loss saved over shuffled",
    "loss saved mixed by seed": "in noise: loss saved, interval over seeds",
    "gain_correlation": "gain correlation",
    "entropy": "entropy",
    "routes": "routes",
    "common_routes": "common routes",
}
Found = Mapping[Record, Mapping[str, Any]]  # decision_value.json of each record at its budget; empty without one


def main(arguments: Sequence[str]) -> None:
    """Run `python -m scripts.studies table`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder of a study")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], metavar="DIR", help="studies for the same table")
    given = parser.parse_args(arguments)
    write_table(given.folder, given.beside)


def write_table(folder: Path, beside: Sequence[Path] = ()) -> None:
    """Write the table and print its path; without a finished run there is none."""
    if not report_study(folder, beside):
        raise ValueError(f"there is no finished run in {folder}, and so no table.")
    print(shown(folder / "study.md"))


def report_study(folder: Path, beside: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Write study.csv, study.md, frontier.png and thresholds.png, and return the rows.

    `beside` are other studies whose runs stand in the same table and picture, such as the baselines.
    """
    refuse_links(folder, ("study.csv", "study.md", "frontier.png", "thresholds.png"))
    records = [record for where in each_once((folder, *beside)) for record in read_records(where)]
    found = {point: budget for one in records if points_of([one]) for point, budget in at_budgets(one)}
    groups = group_records(found)
    if not groups:
        return []
    rows = [{"what": one.name, **summarise(one.records, found)} for one in groups]
    rows += pooled_rows(groups, found)
    table = pd.DataFrame(rows)
    table.map(quoted).to_csv(folder / "study.csv", index=False)
    heads = SHOWN | {name: name.replace("fraction", "compute,") for name in table if str(name).startswith("fraction ")}
    known = [name for name in heads if name in table]
    cells = [[cell(row.get(name), 3) for name in known] for row in rows]
    text = markdown(Table([heads[name] for name in known], cells))
    (folder / "study.md").write_text(text + "\n", encoding="utf-8")
    trained = [(one.name, one.records[0]) for one in groups if "level" not in found[one.records[0]]]
    runs = {name: record.run for name, record in trained if record.run is not None}
    draw_thresholds(runs, folder / "thresholds.png")
    draw_frontier(groups, folder)
    return rows


def pooled_rows(groups: Sequence[Group], found: Found) -> list[dict[str, Any]]:
    """Return a row over all groups of each model that decides and has several."""
    deciding = [one for one in groups if decides(found[one.records[0]])]
    deciding = [one for one in deciding if not one.model.startswith("baseline: ")]
    return [
        {"what": f"{model}, all of these", **summarise([record for one in members for record in one.records], found)}
        for model, members in sorted(group(deciding, by=lambda one: one.model).items())
        if len(members) > 1
    ]


def decides(measured: Mapping[str, Any]) -> bool:
    return "shuffled_acc" in measured.get("mixed", {})


def summarise(records: Sequence[Record], found: Found) -> dict[str, Any]:
    """Return one row: means over the records, and what their clips say together."""
    value = spread_of(records, attrgetter("value"))
    assert value is not None
    row: dict[str, Any] = {
        "runs": len({record.run for record in records}),
        "acc": value.mean,
        "acc_sd": value.deviation,
    }
    for name, column in (("macs_m", "macs_m"), ("fraction", "compute_fraction"), ("seconds", "fit_seconds")):
        spread = spread_of(records, attrgetter(column))
        row[name] = spread and spread.mean
    measured = [found[record] for record in records]
    if not all(measured):
        return row
    means: Any = pd.json_normalize([dict(one) for one in measured]).mean(numeric_only=True)
    row |= {"mixed_acc": means["mixed.acc"], "mixed_loss": means["mixed.loss"], **by_condition(measured)}
    return row | worth(records, found, means) if all(map(decides, measured)) else row


def by_condition(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average compute and accuracy by condition, where all runs have them."""
    if not all("conditions" in one for one in measured):
        return {}
    table = pd.DataFrame([row for one in measured for row in one["conditions"]])
    means: Any = table.groupby("condition", sort=False)[["fraction", "acc"]].mean()
    named = means.to_dict("index")
    return {f"{key} {condition}": value for condition, row in named.items() for key, value in row.items()}


def worth(records: Sequence[Record], found: Found, means: Mapping[str, float]) -> dict[str, Any]:
    """Compare own decisions with shuffled ones; None stands for what no run could measure."""
    row: dict[str, Any] = {"time": means.get("time_fraction")}
    names = ("short_acc", "full_acc", "gain_correlation", "entropy", "routes", "common_routes")
    row |= {name: means.get(f"mixed.{name}") for name in names}
    clips = clip_values(records, found)
    for name in SETS:
        for words, (better, worse) in PAIRS.items():
            values = clips.loc[name, better] - clips.loc[name, worse]
            row[f"{words} {name}"] = bootstrap(np.asarray(values, dtype=np.float64), Units.of([None] * len(values)))
        saved = spread_of(records, lambda one, name=name: found[one][name]["shuffled_loss"] - found[one][name]["loss"])
        row[f"loss saved {name} by seed"] = saved and student(saved.seeds)
        row[f"compute over shuffled {name}"] = means[f"{name}.fraction"] - means[f"{name}.shuffled_fraction"]
    return row


def clip_values(records: Sequence[Record], found: Found) -> Any:
    """Average the rows of decision_value.csv by set and clip, over the records that tested it."""
    tables: list[Any] = []
    for record in records:
        assert record.run is not None
        rows: Any = pd.read_csv(record.run / "report" / "decision_value.csv", dtype={"clip": str})
        level = found[record].get("level")
        tables.append(rows[rows["level"].isna() if level is None else rows["level"] == level])
    return pd.concat(tables).groupby(["set", "clip"], sort=False)[[c for pair in PAIRS.values() for c in pair]].mean()
