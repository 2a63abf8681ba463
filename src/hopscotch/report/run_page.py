"""Tell of one run in two files: `report/index.html`, a page that needs nothing but a browser, and `README.md`, a card.

`run_context` has the facts; the template `run.j2` has the words, once, and puts them into HTML and into Markdown.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.config.typed import with_yaml_path
from hopscotch.data.audio import AudioFileError, rate_ratio, resampler
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.plain import refuse_links, shown
from hopscotch.registry import without_cache
from hopscotch.report import figures
from hopscotch.report.clips import (
    Group,
    Route,
    by_class,
    by_cost,
    by_value,
    cells_of,
    clip_table,
    confusions,
    decision_words,
    open_rates_of,
    routes_of,
    strides_of,
    surely_wrong,
)
from hopscotch.report.decisions import LAYERS, layers_of
from hopscotch.report.findings import warnings_of
from hopscotch.report.page import render_html, render_markdown, sound
from hopscotch.report.run_folder import BEST, OF_ALL_TASKS, RunFolder
from hopscotch.report.statistics import confusion, wilson
from hopscotch.report.text import Table, interval, number
from hopscotch.system import PROJECT_ROOT

PAGE = Path("report") / "index.html"
CARD = "README.md"
NUM_CLIPS = 10  # in each list of single clips
NUM_ROUTES = 12
NUM_CONFUSIONS = 10
MAX_CLASSES = 40  # that a picture has room for; a table shows the least accurate of more
MAX_SECONDS = 2.0  # of a clip that can be heard, from its beginning
MAX_RATE = 16_000  # Hz; 30 clips of 2 s take 2.6 MB of the page at this rate
DECISIONS = {  # prefix of what decision_value.json has -> whose decisions the clips were run with
    "": "each clip its own",
    "shuffled_": "shuffled: those of another clip",
    "short_": "the shortest for all",
    "full_": "everything for all",
}


def write_report(run: RunFolder, sounds: "Sounds | None", why_silent: str = "") -> None:
    """Write both files; the page says `why_silent` where `sounds` is None."""
    context = run_context(run) | {"sounds": sounds, "why_silent": why_silent}
    refuse_links(run.path, [PAGE.as_posix(), CARD])
    (run.path / PAGE).parent.mkdir(exist_ok=True)
    (run.path / PAGE).write_text(render_html("run.j2", context), encoding="utf-8")
    (run.path / CARD).write_text(render_markdown("run.j2", context), encoding="utf-8")


def run_context(run: RunFolder) -> dict[str, Any]:
    """Collect the facts of a run for the template, which also draws and makes tables."""
    figures.use_letters_of([*run.classes, *(row.path for row in run.clips)])
    context = {
        "run": run,
        "figures": figures,
        "clip_table": clip_table,
        "group_table": group_table,
        "route_table": route_table,
        "num_clips": NUM_CLIPS,
        "title": f"{(run.config.get('model') or {}).get('name', 'run')}: {run.path.absolute().name}",
        "headline": headline(run),
        "warnings": warnings_of(run),
        "command": command(run),
        "training": training(run),
        "config": OmegaConf.to_yaml(run.config),
        "learning": learning(run),
        "groupings": {},
        **measured(run),
        "named": named(run),
    }
    return context | clips_context(run) if run.clips else context


def clips_context(run: RunFolder) -> dict[str, Any]:
    """Collect what the test clips tell: by group, by route, one by one."""
    found = routes_of(run.clips)
    top = found[:NUM_ROUTES]
    return {
        "groupings": groupings(run),
        "num_shown": len({row.label for row in run.clips}) if run.has_classes else 0,
        "confusion": confusion_of(run) if run.has_classes and len(run.classes) <= MAX_CLASSES else None,
        "confusions": confusion_table(run) if run.has_classes else None,
        "layers": layers_of(cells_of(run.clips), strides_of(run.clips), open_rates_of(run.clips)).table(run.skips),
        "skips_by_clip": bool(run.skips & {*LAYERS, "strides"}),
        "routes": found,
        "top_routes": top,
        "top_share": f"{sum(len(route.group.rows) for route in top) / len(run.clips):.1%}",
        "by_cost": by_cost(run.clips),
        "hardest": surely_wrong(run.clips) if run.has_classes else sorted(run.clips, key=lambda row: -row.loss),
    }


def headline(run: RunFolder) -> list[tuple[str, str]]:
    """(word, figure): of the test, or of the last validation where there was no test."""
    summary, facts = run.summary, []
    test, compute, seconds = (summary.get(key) or {} for key in ("test", "compute", "seconds"))
    clips = f"{len(run.clips) or (run.data.get('clips') or {}).get('test')} clips"
    primary = run.primary.name if run.primary else ""
    for name in sorted((name for name in test if name not in OF_ALL_TASKS), key=lambda name: name != primary):
        right = Group("", tuple(run.clips)).accuracy if run.has_classes else None
        is_share = right is not None and name == primary and math.isclose(test[name], right, abs_tol=1e-6)
        sure = f"{interval(*wilson(test[name], len(run.clips)))} with 95 %, " if is_share else ""
        facts.append((f"test {name}, {sure}{clips}" if name == primary else f"test {name}", number(test[name])))
    if compute:
        target = f", target {compute['target']:.3f}" if "target" in compute else ""
        dense = number(compute["dense_macs"] / 1e6, 2)
        facts.append((f"of the dense compute{target}", number(compute["fraction"], 3)))
        facts.append((f"million MACs a clip, {dense} when dense", number(compute["macs"] / 1e6, 2)))
    elif run.metrics:
        words = {f"val/{name}": f"{name} on validation clips" for name in run.metric_names}
        known = {
            told: run.last(tag) for tag, told in (words | {"val/compute_fraction": "of the dense compute"}).items()
        }
        facts += [(f"{told}, so far", number(value)) for told, value in known.items() if value is not None]
        facts.append(("optimizer steps so far", f"{max(line['step'] for line in run.metrics) + 1:,}"))
    if summary.get("parameters"):
        facts.append(("parameters", f"{summary['parameters']:,}"))
    if "fit" in seconds:
        facts.append((f"seconds of training, {seconds['total']:.0f} in all", f"{seconds['fit']:.0f}"))
    return [*facts, ("status", run.status)]


def command(run: RunFolder) -> str:
    """Write the command that trained the run, to be typed as it stands."""
    return shlex.join(["python", "train.py", *map(shown, run.overrides)])


def named(run: RunFolder) -> str:
    """Name the run to a command that is typed in the project's folder; empty without a checkpoint."""
    path = run.path.absolute()
    path = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
    return shlex.quote(f"run={path}") if (run.path / BEST).is_file() else ""


def training(run: RunFolder) -> Table:
    """List what was trained, on which data, and how long that took."""
    config, data = run.config, run.data
    model, source = config.get("model") or {}, config.get("data") or {}
    sizes = [f"{key} {model[key]}" for key in ("dim", "heads", "depth") if key in model]
    limit = (config.get("trainer") or {}).get("max_epochs")
    facts = {
        "started": run.started,
        "model": ", ".join([str(model.get("name")), *sizes]),
        "seed": config.get("seed"),
        "epochs": f"{run.summary.get('epochs', len(run.epochs))} of at most {limit}",
        "data": f"{source.get('_target_', '').rpartition('.')[2]}, {source.get('root') or 'made on the spot'}",
        "sample rate": f"{source.get('sample_rate')} Hz",
        "data fingerprint": data.get("fingerprint"),
        "classes": f"{len(data['classes'])}: {', '.join(data['classes'])}" if "classes" in data else None,
    }
    for split, count in (data.get("clips") or {}).items():
        facts[f"{split} clips"] = f"{count}, {data['seconds'][split] / 60:.1f} minutes"
    for name, value in (run.summary.get("seconds") or {}).items():
        is_short = name.startswith("test_clip")
        words = f"{'milliseconds' if is_short else 'seconds'} {name.replace('_', ' ')}"
        facts[words] = f"{1e3 * value:.2f}" if is_short else f"{value:.1f}"
    facts["versions"] = ", ".join(f"{name} {value}" for name, value in (run.summary.get("versions") or {}).items())
    return Table(["what", "value"], [[name, str(value)] for name, value in facts.items() if value not in (None, "")])


def learning(run: RunFolder) -> Table:
    """Compare the epoch that was kept with the last one; a kept one of the run before this is in no row."""
    kept, rows, found = run.kept, run.epochs, []
    tags = [f"{split}/{tag}" for tag in ("loss", *run.metric_names, "compute_fraction") for split in ("train", "val")]
    tags = [tag for tag in tags if any(tag in row for row in rows)]
    if kept is not None:
        what = f"kept: best {kept.monitor}" if kept.monitor else "kept: the last checkpoint"
        best = {"step": kept.step, str(kept.monitor): kept.value}
        found = [(what, row | best) for row in rows if row["epoch"] == kept.epoch]
    if rows:
        found.append(("last", rows[-1] | {"step": rows[-1]["step"] + 1}))
    head = ["", "epoch", "steps", *tags]
    lines = [
        [what, str(row["epoch"] + 1), str(row["step"]), *(number(row.get(tag)) for tag in tags)] for what, row in found
    ]
    return Table(head, lines, numbers=head[1:])


def groupings(run: RunFolder) -> dict[str, list[Group]]:
    """Group the test clips by class, where they have one, duration and loudness."""
    kinds = {"duration": by_value(run.clips, "seconds"), "loudness": by_value(run.clips, "decibels")}
    if not run.has_classes:
        return kinds
    classes = by_class(run.clips, run.classes)
    if len(classes) > MAX_CLASSES:
        classes = sorted(classes, key=lambda group: group.accuracy)[:MAX_CLASSES]
    return {"class": classes, **kinds}


def group_table(groups: Sequence[Group], word: str) -> Table:
    """Tell how good and how costly each group is."""
    head = [word, "clips", groups[0].quality[0], "95 % interval", "compute", "95 % interval", "million MACs a clip"]
    rows = [
        [
            *(group.name, str(len(group.rows)), *quality_cells(group)),
            *(number(group.compute), interval(*group.compute_interval)),
            number(group.macs / 1e6, 2),
        ]
        for group in groups
    ]
    return Table(head, rows, numbers=head[1:])


def quality_cells(group: Group) -> tuple[str, str]:
    _, value, (low, high) = group.quality
    return number(value), interval(low, high)


def confusion_table(run: RunFolder) -> Table:
    """List what was taken for what most often."""
    rows = [[label, taken, str(count)] for (label, taken), count in confusions(run.clips)[:NUM_CONFUSIONS]]
    return Table(["is", "taken for", "clips"], rows or [["no clip was wrong", "", ""]], numbers=["clips"])


def confusion_of(run: RunFolder) -> np.ndarray:
    """Count test clips by what they are and what they were taken for."""
    places = {name: place for place, name in enumerate(run.classes)}
    labels, predictions = ([places[getattr(row, name)] for row in run.clips] for name in ("label", "prediction"))
    return confusion(np.array(labels), np.array(predictions), len(places))


def route_table(routes: Sequence[Route], run: RunFolder) -> Table:
    """Tell how often each route was taken, and how good and how costly its clips are."""
    words = decision_words(run.skips, "", ())
    rows = []
    for letters, strides, group in routes:
        good, sure = quality_cells(group)
        rows.append(
            decision_words(run.skips, letters, strides)
            | {"clips": str(len(group.rows)), "share": f"{len(group.rows) / len(run.clips):.1%}"}
            | {group.quality[0]: good, "95 % interval": sure, "compute": number(group.compute)}
        )
    return Table.of(rows, words)


def measured(run: RunFolder) -> dict[str, Table]:
    """Make tables of what `callbacks=decision_value` and scripts/evaluate.py measured after training."""
    name, value = run.primary.name if run.primary else "", run.decision_value
    conditions = [
        {"condition": row["condition"]}
        | {head: number(row.get(key)) for head, key in ((name, name), ("loss", "loss"), ("compute", "fraction"))}
        for row in value.get("conditions") or []
    ]
    worth = [
        {"clips": clips, "decisions": words, name: number(told.get(f"{key}{name}"))}
        | {"compute": number(told.get(f"{key}fraction"))}
        for clips in ("clean", "mixed")
        if f"shuffled_{name}" in (told := value.get(clips) or {})
        for key, words in DECISIONS.items()
    ]
    budgets = [{head: rounded(cell or "") for head, cell in row.items()} for row in run.budgets]
    return {
        "conditions": Table.of(conditions, ["condition"]),
        "decision_value": Table.of(worth, ["clips", "decisions"]),
        "budgets": Table.of(budgets),
    }


def rounded(text: str) -> str:
    """Round a number of a CSV file."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:,.0f}" if abs(value) >= 1000 else number(value)


# The sounds of a page: where the data are still there, and still the same.


class Sounds:
    """Players for the test clips of a data module, by the names of the clips."""

    def __init__(self, data: AudioDataModule) -> None:
        self.data = data
        self.clips = {clip.name: clip for clip in data.clips["test"]}

    def player(self, name: str) -> Markup:
        """Encode the beginning of a clip."""
        if name not in self.clips:
            return Markup("")
        try:
            waveform = self.data.load(self.clips[name])
        except AudioFileError:  # it changed since the run: the fingerprint knows names and lengths
            return Markup("cannot be read")
        rate = self.data.sample_rate
        waveform = waveform[: round(MAX_SECONDS * rate)]
        if rate > MAX_RATE:
            waveform = resampler(*rate_ratio(rate, MAX_RATE))(waveform.to(torch.float32))
            rate = MAX_RATE
        return sound(waveform, rate)


def find_sounds(
    run: RunFolder, build: Callable[[DictConfig], AudioDataModule], overrides: list[str]
) -> tuple[Sounds | None, str]:
    """Find the sounds of a run, or None and the reason. `overrides` say where the data are now."""
    if not run.clips:  # nothing to be heard
        return None, ""
    cfg = OmegaConf.create(without_cache(run.config))
    OmegaConf.set_struct(cfg, True)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not (equals and key.startswith("data.") and OmegaConf.select(cfg, key, default=...) is not ...):
            raise ValueError(f"An override must be data.<key>=value with a key of the run's config, got {override!r}.")
        cfg.merge_with_dotlist([with_yaml_path(override)])
    try:
        cfg.data.cache_gib = 0.0  # a few clips are decoded, not all
        data = build(cfg)
        data.setup("test")
    except (ValueError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
        return None, f"Without sound, for the data could not be read: {' '.join(str(error).split())}"
    was = run.data.get("fingerprint")
    if was != data.fingerprint():
        known = f"{was}, now {data.fingerprint()}" if was else "not known"
        return None, f"Without sound, for the data may not be those of the run: their fingerprint was {known}."
    return Sounds(data), ""
