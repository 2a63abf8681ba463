"""Tell of one run in two files: `report/index.html`, a page that needs nothing but a browser, and `README.md`, a card.

`run_context` says everything once; the templates `run.html.j2` and `card.md.j2` say it in their own way.
"""

import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.errors import HydraException
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.data.audio import AudioFileError, rate_ratio, resampler
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.plain import refuse_links, shown
from hopscotch.registry import without_cache
from hopscotch.report import figures
from hopscotch.report.clips import (
    Group,
    by_class,
    by_cost,
    by_duration,
    by_loudness,
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
STORED = {
    "jump_history.png": "What test clips did at each layer, from the cheapest clip to the costliest",
    "skip_pattern.png": "Strides by layer: the share of the test clips, and the patterns most used",
}
LOUDNESS = "Root mean square of the whole clip against full scale: 0 dB is as loud as a file can be."


def write_report(run: RunFolder, sounds: "Sounds | None", why_silent: str = "") -> None:
    """Write both files; the page says `why_silent` where `sounds` is None."""
    context = run_context(run)
    heard = {"figures": figures, "sounds": sounds, "why_silent": why_silent if run.clips else ""}
    refuse_links(run.path, [PAGE.as_posix(), CARD])
    (run.path / PAGE).parent.mkdir(exist_ok=True)
    (run.path / PAGE).write_text(render_html("run.html.j2", context | heard), encoding="utf-8")
    (run.path / CARD).write_text(render_markdown("card.md.j2", context), encoding="utf-8")


def run_context(run: RunFolder) -> dict[str, Any]:
    """Say of a run what there is to say, in the words of the templates."""
    context = {
        "run": run,
        "title": f"{(run.config.get('model') or {}).get('name', 'run')}: {run.path.absolute().name}",
        "headline": headline(run),
        "warnings": warnings_of(run),
        "missing": run.missing,
        "command": command(run),
        "training": training(run),
        "config": OmegaConf.to_yaml(run.config),
        "learning": learning(run),
        "groupings": [],
        "measured": measured(run),
        "usage": usage(run),
    }
    if not run.clips:
        return context
    return context | {
        "groupings": groupings(run),
        "confusion": confusion_of(run) if len(run.classes) <= MAX_CLASSES and run.has_classes else None,
        "confusions": confusion_table(run) if run.has_classes else None,
        "skipped": skipped(run),
        "single_clips": single_clips(run),
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
        facts.append((f"of the dense compute{target}", number(compute["fraction"], 3)))
        dense = number(compute["dense_macs"] / 1e6, 2)
        facts.append((f"million MACs a clip, {dense} when dense", number(compute["macs"] / 1e6, 2)))
    elif run.metrics:
        names = {f"val/{name}": f"{name} on validation clips" for name in run.metric_names}
        names["val/compute_fraction"] = "of the dense compute"
        known = {words: run.last(tag) for tag, words in names.items()}
        facts += [(f"{words}, so far", number(value)) for words, value in known.items() if value is not None]
        facts.append(("optimizer steps so far", f"{max(line['step'] for line in run.metrics) + 1:,}"))
    if summary.get("parameters"):
        facts.append(("parameters", f"{summary['parameters']:,}"))
    if "fit" in seconds:
        facts.append((f"seconds of training, {seconds['total']:.0f} in all", f"{seconds['fit']:.0f}"))
    return [*facts, ("status", run.status)]


def command(run: RunFolder) -> str:
    """Write the command that trained the run, to be typed as it stands."""
    return shlex.join(["python", "train.py", *map(shown, run.overrides)])


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
        is_short = name == "test_clip"
        facts[f"{'milliseconds' if is_short else 'seconds'} {name.replace('_', ' ')}"] = (
            f"{1e3 * value:.2f}" if is_short else f"{value:.1f}"
        )
    facts["versions"] = ", ".join(f"{name} {value}" for name, value in (run.summary.get("versions") or {}).items())
    return Table(["what", "value"], [[name, str(value)] for name, value in facts.items() if value not in (None, "")])


def learning(run: RunFolder) -> dict[str, Any] | None:
    """Compare the epoch that was kept with the last one; None if nothing is logged."""
    if not run.metrics:
        return None
    kept, rows = run.kept, run.epochs
    names = ("loss", *run.metric_names, "compute_fraction")
    tags = [f"{split}/{tag}" for tag in names for split in ("train", "val")]
    tags = [tag for tag in tags if any(tag in row for row in rows)]
    words, lines = "" if rows else "No validation yet.", []

    def add(what: str, epoch: int, steps: int, row: dict[str, Any]) -> None:
        lines.append([what, str(epoch + 1), str(steps), *(number(row.get(tag)) for tag in tags)])

    if kept is not None:
        found = next((row for row in rows if row["epoch"] == kept.epoch), None)
        if found is None:
            by = f", {kept.monitor} {number(kept.value)}" if kept.monitor else ""
            words = (
                f"The weights that are kept come from the run that this one went on from: epoch {kept.epoch + 1}{by}."
            )
        else:
            by = f"best {kept.monitor}" if kept.monitor else "the last checkpoint"
            add(f"kept: {by}", kept.epoch, kept.step, found | {str(kept.monitor): kept.value})
    if rows:
        add("last", rows[-1]["epoch"], rows[-1]["step"] + 1, rows[-1])
    head = ["", "epoch", "steps", *tags]
    return {"words": words, "table": Table(head, lines, numbers=head[1:])}


class Grouping(NamedTuple):
    """Test clips in groups, for a picture and a table."""

    word: str
    groups: Sequence[Group]
    table: Table
    note: str


def groupings(run: RunFolder) -> list[Grouping]:
    """Group the test clips by class, where they have one, duration and loudness."""
    kinds = {"duration": (by_duration(run.clips), ""), "loudness": (by_loudness(run.clips), LOUDNESS)}
    if run.has_classes:
        classes, note = by_class(run.clips, run.classes), ""
        if len(classes) > MAX_CLASSES:
            note = f"The {MAX_CLASSES} least accurate of {len(classes)} classes."
            classes = sorted(classes, key=lambda group: group.accuracy)[:MAX_CLASSES]
        kinds = {"class": (classes, note), **kinds}
    found = []
    for word, (groups, words) in kinds.items():
        alike = f"All {len(run.clips)} test clips are alike in this: {groups[0].name}. " if len(groups) == 1 else ""
        found.append(Grouping(word, groups, group_table(groups, word), alike + words))
    return found


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


def skipped(run: RunFolder) -> dict[str, Any]:
    """Show what the test clips skipped, by layer and by route."""
    found, skips = routes_of(run.clips), run.skips
    layers = layers_of(cells_of(run.clips), strides_of(run.clips), open_rates_of(run.clips)).table(skips)
    told: dict[str, Any] = {
        "stored": [(path, words) for name, words in STORED.items() if (path := run.picture(name))],
        "layers": layers if skips else None,
        "routes": [],
    }
    if not skips & {*LAYERS, "strides"}:
        read = "which read the open tokens alone" if "tokens" in skips else "and attention read every position"
        return told | {"words": f"Every test clip ran every layer, {read}."}
    top = found[:NUM_ROUTES]
    share = sum(len(route.group.rows) for route in top) / len(run.clips)
    words = f"The {len(top)} most common of {len(found)} routes, taken by {share:.1%} of the test clips."
    numbers = ["clips", "share", top[0].group.quality[0], "95 % interval", "compute"]
    rows = [
        [
            *decision_words(skips, route.letters, route.strides).values(),
            str(len(route.group.rows)),
            f"{len(route.group.rows) / len(run.clips):.1%}",
            *quality_cells(route.group),
            number(route.group.compute),
        ]
        for route in top
    ]
    return told | {
        "words": "All test clips take the same route." if len(found) == 1 else words,
        "routes": top,
        "table": Table([*decision_words(skips, "", ()), *numbers], rows, numbers=numbers),
    }


def single_clips(run: RunFolder) -> list[tuple[str, Table | None]]:
    """Make lists of clips with their titles; a title alone where a list says nothing."""
    ordered, skips = by_cost(run.clips), run.skips
    if ordered[0].compute == ordered[-1].compute:
        found = [(f"No clip is costlier than another: each takes {ordered[0].compute:.3f} of the dense compute", None)]
    else:
        costliest = clip_table(ordered[::-1][:NUM_CLIPS], skips)
        found = [("The costliest, as a share of the dense compute", costliest)]
        found.append(("The cheapest", clip_table(ordered[:NUM_CLIPS], skips)))
    if not run.has_classes:
        hardest = sorted(run.clips, key=lambda row: -row.loss)[:NUM_CLIPS]
        return [*found, ("The largest losses", clip_table(hardest, skips))]
    if not (wrong := surely_wrong(run.clips)):
        return [*found, ("No test clip was wrong", None)]
    return [*found, ("Wrong, and the most sure of it", clip_table(wrong[:NUM_CLIPS], skips))]


class Measured(NamedTuple):
    """What was measured after training, by `callbacks=probe` or scripts/evaluate.py."""

    title: str
    words: str
    table: Table
    stored: Sequence[tuple[Path, str]] = ()


def measured(run: RunFolder) -> list[Measured]:
    """Collect what else was measured of the run."""
    found, name = [], run.primary.name if run.primary else ""
    if conditions := run.decision_value.get("conditions") or []:
        head = ["condition", name, "loss", "compute"]
        rows = [[row["condition"], *(number(row.get(key)) for key in (name, "loss", "fraction"))] for row in conditions]
        found.append(Measured("In silence and noise", "", Table(head, rows, numbers=head[1:])))
    sets = {clips: run.decision_value.get(clips) or {} for clips in ("clean", "mixed")}
    decisions = {
        "": "each clip its own",
        "shuffled_": "shuffled: those of another clip",
        "short_": "the shortest for all",
        "full_": "everything for all",
    }
    rows = [
        [clips, words, number(told.get(f"{key}{name}")), number(told.get(f"{key}fraction"))]
        for clips, told in sets.items()
        if f"shuffled_{name}" in told
        for key, words in decisions.items()
    ]
    if rows:
        head = ["clips", "decisions", name, "compute"]
        words = "Clean clips, and the same in noise of 0 to 20 dB: what is lost where decisions are not the clip's own?"
        found.append(Measured("What the decisions are worth", words, Table(head, rows, numbers=head[2:])))
    if run.budgets:
        head, path = list(run.budgets[0]), run.picture("budgets.png")
        stored = [(path, "What this checkpoint comes to under other budgets")] if path else []
        table = Table(head, [[rounded(row[word] or "") for word in head] for row in run.budgets], numbers=head)
        found.append(Measured("Other budgets", "The same weights, calibrated to spend less or more.", table, stored))
    return found


def rounded(text: str) -> str:
    """Round a number of a CSV file."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:,.0f}" if abs(value) >= 1000 else number(value)


def usage(run: RunFolder) -> str:
    """List the commands that go on from the run, in the project's folder; none without a checkpoint."""
    if not (run.path / BEST).is_file():
        return ""
    path = run.path.absolute()
    path = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
    named = shlex.quote(f"run={path}")
    return "\n".join(
        [
            f"python scripts/predict.py {named} clip.wav",
            f"python scripts/evaluate.py {named}",
            f"python scripts/report.py {named}",
        ]
    )


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
        cfg.merge_with_dotlist([override])
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
