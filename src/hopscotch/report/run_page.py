"""Tell of one run in two files: `report/index.html`, a page that needs nothing but a browser, and `README.md`, a card.

`run_context` has the facts; the template `run.j2` has the words, once, and puts them into HTML and into Markdown.
"""

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import HydraException
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from hopscotch.config.typed import with_yaml_path
from hopscotch.data.audio import AudioFileError, rate_ratio, resampler
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.files import refuse_links, write_file
from hopscotch.frontend import LogMel
from hopscotch.known import refuse_unknown
from hopscotch.plain import shown
from hopscotch.registry import SOURCE_KEYS, without_cache
from hopscotch.report import figures
from hopscotch.report.clips import (
    ClipRow,
    Group,
    Route,
    by_class,
    by_cost,
    by_value,
    cells_of,
    clip_table,
    confusions,
    decision_words,
    explained_clips,
    explained_file,
    open_rates_of,
    routes_of,
    strides_of,
    surely_wrong,
)
from hopscotch.report.decisions import LAYERS, layers_of
from hopscotch.report.findings import warnings_of
from hopscotch.report.page import render_html, render_markdown, sound, thumbnail
from hopscotch.report.paint import dark_to_light, save, use_letters_of
from hopscotch.report.run_folder import BEST, CONFIG, OF_ALL_TASKS, RunFolder
from hopscotch.report.statistics import confusion, reliability
from hopscotch.report.text import Table, interval, number, sure
from hopscotch.system import PROJECT_ROOT

PAGE = Path("report") / "index.html"
SKIPS = "skips.svg"  # beside the page: what each clip read in each layer
CARD = "README.md"
NUM_CLIPS = 10  # wrong ones that are listed
NUM_ENDS = 5  # cheapest and costliest ones
NUM_ROUTES = 12
NUM_CONFUSIONS = 10
MAX_CLASSES = 40  # that a picture has room for; a table shows the least accurate of more
MAX_SECONDS = 2.0  # of a clip that can be heard, from its beginning
MAX_RATE = 16_000  # Hz; 23 clips of 2 s take 2 MB of the page at this rate
THUMBNAIL = 160, 40  # pixels of a mel picture in a table
DECISIONS = {  # prefix of what decision_value.json has -> whose decisions the clips were run with
    "": "each clip its own",
    "shuffled_": "shuffled: those of another clip",
    "short_": "the shortest for all",
    "full_": "everything for all",
}


def write_report(run: RunFolder, sounds: "Sounds | None", why_silent: str = "") -> None:
    """Write both files and their picture; the page says `why_silent` where `sounds` is None."""
    context = run_context(run) | {"sounds": sounds, "why_silent": why_silent}
    picture = (run.path / PAGE).with_name(SKIPS)
    refuse_links(run.path, [PAGE.as_posix(), CARD, picture.relative_to(run.path).as_posix()])
    picture.parent.mkdir(exist_ok=True)
    if run.clips and run.skips:
        figure, context["skips_caption"] = figures.draw_skips(run.clips)
        save(figure, picture)
    write_file(run.path / PAGE, render_html("run.j2", context))
    write_file(run.path / CARD, render_markdown("run.j2", context))


def run_context(run: RunFolder) -> dict[str, Any]:
    """Collect the facts of a run for the template, which also draws and makes tables."""
    use_letters_of([*run.classes, *(row.path for row in run.clips)])
    context = {
        "run": run,
        "figures": figures,
        "clip_table": clip_table,
        "explained_file": explained_file,
        "group_table": group_table,
        "route_table": route_table,
        "num_clips": NUM_CLIPS,
        "num_ends": NUM_ENDS,
        "title": title_of(run),
        "subtitle": subtitle(run),
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
        "explained": explained_clips(run.clips),
        "classes": class_table(run) if run.has_classes else None,
        "reliability": reliability_of(run.clips),
        "routes": found,
        "top_routes": top,
        "top_share": f"{sum(len(route.group.rows) for route in top) / len(run.clips):.1%}",
        "by_cost": by_cost(run.clips),
        "hardest": surely_wrong(run.clips) if run.has_classes else sorted(run.clips, key=lambda row: -row.loss),
    }


def title_of(run: RunFolder) -> str:
    """Name a run as a person would: `learned_skip on synthetic words, seed 0`."""
    config, source = run.config, run.config.get("data") or {}
    name = str(source.get("_target_", "")).rpartition(".")[2]
    root = Path(str(source.get("root") or "")).name
    data = root if name == "Folder" and root else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    seed = f", seed {config['seed']}" if config.get("seed") is not None else ""
    return f"{(config.get('model') or {}).get('name', 'run')}{f' on {data}' if data else ''}{seed}"


def subtitle(run: RunFolder) -> str:
    """Say which run this is, and how far it came."""
    seconds, epochs = run.summary.get("seconds") or {}, run.summary.get("epochs", len(run.epochs))
    parts = [run.status, f"{epochs} epochs" + (f" in {seconds['fit'] / 60:.0f} min" if "fit" in seconds else "")]
    return ", ".join([*parts, f"started {run.started[:16].replace('T', ' ')}", run.path.absolute().name])


def headline(run: RunFolder) -> list[tuple[str, str]]:
    """(word, figure): metric, compute and time of the test, or of the last validation where there was no test."""
    summary, facts = run.summary, []
    test, compute, seconds = (summary.get(key) or {} for key in ("test", "compute", "seconds"))
    primary = run.primary.name if run.primary else ""
    for name in sorted((name for name in test if name not in OF_ALL_TASKS), key=lambda name: name != primary):
        words = f"test {name}"
        facts.append((f"{words}, {sure_of(run, test[name])}" if name == primary else words, number(test[name])))
    if compute:
        target = f", target {compute['target']:.3f}" if "target" in compute else ""
        macs, dense = (number(compute[key] / 1e6, 2) for key in ("macs", "dense_macs"))
        words = f"of the dense compute{target}: {macs} of {dense} million MACs a clip"
        facts.append((words, number(compute["fraction"], 3)))
        facts += time_facts(seconds)
    elif run.metrics:
        words = {f"val/{name}": f"{name} on validation clips" for name in run.metric_names}
        known = {
            told: run.last(tag) for tag, told in (words | {"val/compute_fraction": "of the dense compute"}).items()
        }
        facts += [(f"{told}, so far", number(value)) for told, value in known.items() if value is not None]
        facts.append(("optimizer steps so far", f"{max(line['step'] for line in run.metrics) + 1:,}"))
    return facts


def sure_of(run: RunFolder, value: float) -> str:
    """Write the interval of the primary metric if it is an accuracy, and how many clips there are."""
    num_clips = len(run.clips) or (run.data.get("clips") or {}).get("test") or 0
    found = Group("", tuple(run.clips)).quality[1] if run.has_classes else None
    return sure(found if found is not None and math.isclose(value, found.value, abs_tol=1e-6) else None, num_clips)


def time_facts(seconds: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say how long a test clip took and, where that was measured, a dense model for it."""
    own, dense = seconds.get("test_clip"), seconds.get("test_clip_dense")
    if not own:
        return []
    beside = f": {own / dense:.2f} of the dense model's {1e3 * dense:.2f} ms" if dense else ", test batches"
    return [(f"a clip{beside}", f"{1e3 * own:.2f} ms")]


def command(run: RunFolder) -> str:
    """Write the command that trained the run, to be typed as it stands."""
    return shlex.join(["python", "train.py", *map(shown, run.overrides)])


def named(run: RunFolder) -> str:
    """Name the run to a command that is typed in the project's folder; empty without a checkpoint."""
    path = run.path.absolute()
    path = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
    return shlex.quote(str(path)) if (run.path / BEST).is_file() else ""


def training(run: RunFolder) -> Table:
    """List what was trained, on which data, and how long that took."""
    config, data = run.config, run.data
    model, source = config.get("model") or {}, config.get("data") or {}
    sizes = [f"{key} {model[key]}" for key in ("dim", "heads", "depth") if key in model]
    limit = (config.get("trainer") or {}).get("max_epochs")
    most = "" if limit in (None, -1) else f" of at most {limit}"
    facts = {
        "model": ", ".join([str(model.get("name")), *sizes]),
        "seed": config.get("seed"),
        "parameters": f"{run.summary['parameters']:,}" if run.summary.get("parameters") else None,
        "epochs": f"{run.summary.get('epochs', len(run.epochs))}{most}",
        "data": f"{source.get('_target_', '').rpartition('.')[2]}, {source.get('root') or 'made on the spot'}",
        "sample rate": f"{source.get('sample_rate')} Hz",
        "data fingerprint": data.get("fingerprint"),
        "classes": f"{len(data['classes'])}: {', '.join(data['classes'])}" if "classes" in data else None,
    }
    for split, count in (data.get("clips") or {}).items():
        facts[f"{split} clips"] = f"{count}, {data['seconds'][split] / 60:.1f} minutes"
    seconds = {name: value for name, value in (run.summary.get("seconds") or {}).items() if isinstance(value, float)}
    for name, value in seconds.items():  # others are not known, or one for each stage of a cascade
        milli = name.startswith("test_clip")
        facts[f"{'milli' * milli}seconds {name.replace('_', ' ')}"] = f"{1e3 * value:.2f}" if milli else f"{value:.1f}"
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
    if rows and (kept is None or rows[-1]["epoch"] != kept.epoch):
        found.append(("last", rows[-1] | {"step": rows[-1]["step"] + 1}))
    head = ["", "epoch", "steps", *(" ".join(reversed(tag.replace("_", " ").split("/"))) for tag in tags)]
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


def class_table(run: RunFolder) -> Table:
    """Tell by class how many of its clips were found, and how many that were taken for it are of it."""
    named, f1, rows = Counter(row.prediction for row in run.clips), [], []
    for group in by_class(run.clips, run.classes):
        right, taken = sum(row.is_right for row in group.rows), named[group.name]
        f1.append(2 * right / (len(group.rows) + taken))
        figures = [right / taken if taken else None, group.accuracy, f1[-1], group.compute]
        cells = [number(value, 3) for value in figures]
        cells.insert(2, quality_cells(group)[1])
        rows.append([group.name, str(len(group.rows)), *cells, number(group.macs / 1e6, 2)])
    unheard = sum(name not in {row.label for row in run.clips} for name in named)  # they count as F1 of 0
    rows.append(["all: the mean", str(len(run.clips)), "", "", "", number(sum(f1) / (len(f1) + unheard), 3), "", ""])
    head = ["class", "clips", "precision", "recall", "95 % interval", "F1", "compute", "million MACs a clip"]
    return Table(head, rows, numbers=head[1:])


def reliability_of(rows: Sequence[ClipRow]) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Confidence, whether it was right, and the expected calibration error; None without confidences."""
    if not rows[0].has_classes or any(math.isnan(row.confidence) for row in rows):
        return None
    sure, right = np.array([row.confidence for row in rows]), np.array([row.is_right for row in rows])
    return sure, right, reliability(sure, right).error


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
    _, found = group.quality
    return number(found.value), interval(found.low, found.high)


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
    """Make tables of what `callbacks=decision_value` and `hopscotch evaluate` measured after training."""
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
        self.frontend = LogMel(sample_rate=data.sample_rate)

    def player(self, name: str) -> Markup:
        """Encode the beginning of a clip."""
        return self.heard(name)[1]

    def heard(self, name: str) -> tuple[Markup, Markup]:
        """Draw and encode the beginning of a clip."""
        if name not in self.clips:
            return Markup(""), Markup("")
        try:
            waveform = self.data.first_window(self.clips[name]).to(torch.float32)
        except AudioFileError:  # it changed since the run: the fingerprint knows names and lengths
            return Markup(""), Markup("cannot be read")
        waveform = waveform[: round(MAX_SECONDS * self.data.sample_rate)]
        mel, _ = self.frontend(waveform[None], torch.tensor([len(waveform)]))
        return seen_and_heard(mel[0], waveform, self.data.sample_rate)


def seen_and_heard(mel: Tensor, wave: Tensor, rate: int, size: tuple[int, int] = THUMBNAIL) -> tuple[Markup, Markup]:
    """Draw mel frames (time mel), low tones below and loud ones light, and encode samples at most at `MAX_RATE`."""
    low, high = mel.quantile(0.01), mel.quantile(0.99)
    shades = ((mel.T.flip(0) - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).numpy()
    drawn = thumbnail(dark_to_light()(shades, bytes=True)[..., :3], size)
    if rate > MAX_RATE:
        wave, rate = resampler(*rate_ratio(rate, MAX_RATE))(wave), MAX_RATE
    return drawn, sound(wave, rate)


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
        refuse_unknown({"data": run.config.get("data")}, run.path / CONFIG, overrides)
        for source in filter(OmegaConf.is_dict, (OmegaConf.select(cfg, key) for key in SOURCE_KEYS)):
            source.update({key: 0.0 for key in ("cache_gib", "disk_cache_gib") if key in source})  # few are decoded
        data = build(cfg)
        data.setup("test")
    except (ValueError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
        return None, f"Without sound, for the data could not be read: {' '.join(str(error).split())}"
    was = run.data.get("fingerprint")
    if was != data.fingerprint():
        known = f"{was}, now {data.fingerprint()}" if was else "not known"
        return None, f"Without sound, for the data may not be those of the run: their fingerprint was {known}."
    return Sounds(data), ""
