"""What there is to say of a run, in order, from the files of its folder: told once, for the page and for the card."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hopscotch.report import run_pictures
from hopscotch.report.clip_numbers import (
    Group,
    by_class,
    by_cost,
    by_duration,
    by_loudness,
    confusion,
    confusions,
    kinds_of_rows,
    layers_of,
    route_in_words,
    routes_of,
    strides_in_words,
    surely_wrong,
    wilson,
)
from hopscotch.report.clip_table import ClipRow
from hopscotch.report.learning import epochs, kept_epoch, last, warnings_so_far
from hopscotch.report.numbers import Kinds
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.story import Code, Drawn, Facts, Folded, Heading, Part, Section, Stored, Table, Text, Warn
from hopscotch.report.summary import percent
from hopscotch.system import PROJECT_ROOT

NUM_CLIPS = 10  # in each list of single clips
NUM_ROUTES = 12
NUM_CONFUSIONS = 10
MAX_CLASSES = 40  # that a picture has room for; a table shows the least accurate of more
STORED = {
    "jump_history.png": "What test clips did at each layer, from the cheapest clip to the costliest",
    "skip_pattern.png": "Strides by layer: the share of the test clips, and the patterns most used",
}


def tell(run: RunFolder) -> tuple[list[Part], list[Section]]:
    """What stands at the top, and the sections below it."""
    top: list[Part] = [Facts(headline(run)), *map(Warn, find_warnings(run)), *map(Text, run.missing)]
    sections = [Section("What was trained, and how", training(run))]
    if run.metrics:
        sections.append(Section("Learning", learning(run)))
    if run.clips:
        groups = by_class(run.clips, run.classes)
        sections += [
            Section("By class", classes(run, groups)),
            Section("By duration", grouped(by_duration(run.clips), "duration")),
            Section("By loudness", [*grouped(by_loudness(run.clips), "loudness"), Text(LOUDNESS)]),
            Section("What was skipped", skipped(run)),
            Section("Single clips", single_clips(run.clips)),
        ]
    sections += [Section(title, parts) for title, parts in measured(run).items() if parts]
    return top, [*sections, Section("How to use it", usage(run))]


LOUDNESS = "Root mean square of the whole clip against full scale: 0 dB is as loud as a file can be."


def headline(run: RunFolder) -> list[tuple[str, str]]:
    """(word, figure): of the test, or of the last validation where there was no test."""
    summary, facts = run.summary, []
    test, compute, seconds = (summary.get(key) or {} for key in ("test", "compute", "seconds"))
    num_clips = len(run.clips) or ((summary.get("data") or {}).get("clips") or {}).get("test")
    if "acc" in test and num_clips:
        low, high = wilson(test["acc"], num_clips)
        facts.append((f"test accuracy, {low:.3f} to {high:.3f} with 95 %, {num_clips} clips", f"{test['acc']:.4f}"))
    if compute:
        target = f", target {compute['target']:.3f}" if "target" in compute else ""
        facts.append((f"of the dense compute{target}", f"{compute['fraction']:.3f}"))
        dense = compute["dense_macs"] / 1e6
        facts.append((f"million MACs a clip, {dense:.2f} when dense", f"{compute['macs'] / 1e6:.2f}"))
    elif run.metrics:
        names = {"val/acc": "accuracy on validation clips", "val/compute_fraction": "of the dense compute"}
        known = {words: last(run.metrics, tag) for tag, words in names.items()}
        facts += [(f"{words}, so far", f"{value:.4f}") for words, value in known.items() if value is not None]
        facts.append(("optimizer steps so far", f"{max(line['step'] for line in run.metrics) + 1:,}"))
    if summary.get("parameters"):
        facts.append(("parameters", f"{summary['parameters']:,}"))
    if "fit" in seconds:
        facts.append((f"seconds of training, {seconds['total']:.0f} in all", f"{seconds['fit']:.0f}"))
    return [*facts, ("status", run.status)]


def find_warnings(run: RunFolder) -> list[str]:
    """Those of the summary, and what its author could not see."""
    found = [str(warning) for warning in run.summary.get("warnings") or []]
    if run.summary.get("error"):
        found.insert(0, f"{run.status}: {run.summary['error']}")
    if not run.summary.get("test"):
        found += warnings_so_far(run.metrics)
    if run.clips:
        unheard = sorted(set(run.classes) - {row.label for row in run.clips}, key=run.classes.index)
        if unheard:
            found.append(f"classes without test clips, of which nothing is known: {', '.join(unheard)}.")
        never = sorted(set(run.classes) - {row.prediction for row in run.clips}, key=run.classes.index)
        if never := [name for name in never if name not in unheard]:
            found.append(f"classes that no test clip was taken for: {', '.join(never)}.")
    data = run.summary.get("data") or {}
    for name, why in (data.get("skipped") or {}).items():
        found.append(f"clip left out: {name}: {why}")
    planned = (data.get("clips") or {}).get("test")
    if run.clips and planned and len(run.clips) != planned:
        found.append(f"{len(run.clips)} of {planned} test clips were judged.")
    return found


def command(run: RunFolder) -> str:
    return shlex.join(["python", "train.py", *run.overrides])


def training(run: RunFolder) -> list[Part]:
    config, data = run.config, run.summary.get("data") or {}
    model, source = config.get("model") or {}, config.get("data") or {}
    facts = {
        "started": run.started,
        "model": ", ".join(
            [str(model.get("name")), *(f"{key} {model[key]}" for key in ("dim", "heads", "depth") if key in model)]
        ),
        "seed": config.get("seed"),
        "epochs": f"{run.summary.get('epochs', len(epochs(run.metrics)))} of at most {limit(run)}",
        "data": f"{source.get('_target_', '').rpartition('.')[2]}, {source.get('root') or 'made on the spot'}",
        "sample rate": f"{source.get('sample_rate')} Hz",
        "data fingerprint": data.get("fingerprint"),
        "classes": f"{len(data['classes'])}: {', '.join(data['classes'])}" if "classes" in data else None,
    }
    for split, count in (data.get("clips") or {}).items():
        facts[f"{split} clips"] = f"{count}, {data['seconds'][split] / 60:.1f} minutes"
    for name, value in (run.summary.get("seconds") or {}).items():
        facts[f"seconds {name.replace('_', ' ')}"] = f"{value:.1f}"
    facts["versions"] = ", ".join(f"{name} {value}" for name, value in (run.summary.get("versions") or {}).items())
    rows = [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
    return [
        Code(command(run)),
        Table(["what", "value"], rows),
        Folded("The whole configuration", OmegaConf.to_yaml(run.config), "config.yaml"),
    ]


def limit(run: RunFolder) -> object:
    return (run.config.get("trainer") or {}).get("max_epochs")


def learning(run: RunFolder) -> list[Part]:
    kept_loss = run.summary.get("kept_loss")
    target = (run.summary.get("compute") or {}).get("target")
    parts: list[Part] = [Drawn(lambda: run_pictures.draw_learning(run.metrics, target, kept_loss))]
    kept, rows = kept_epoch(run.metrics, kept_loss), epochs(run.metrics)
    if not rows:
        return [*parts, Text("No validation yet.")]
    tags = [f"{split}/{tag}" for tag in ("loss", "acc", "compute_fraction") for split in ("train", "val")]
    tags = [tag for tag in tags if any(tag in row for row in rows)]
    lines = [
        [word, str(row["epoch"] + 1), str(row["step"] + 1), *(shown(row.get(tag)) for tag in tags)]
        for word, row in (("kept: lowest val/loss", kept), ("last", rows[-1]))
        if row is not None
    ]
    if kept is None:
        parts.append(
            Text(f"Kept are weights of the run that this one went on from, with a val/loss of {kept_loss:.4f}.")
        )
    head = ["", "epoch", "steps", *tags]
    return [*parts, Table(head, lines, numbers=head[1:])]


def shown(value: float | None, digits: int = 4) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval_shown(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def group_table(groups: Sequence[Group], word: str) -> Table:
    head = [word, "clips", "accuracy", "95 % interval", "compute", "95 % interval", "million MACs a clip"]
    rows = [
        [
            group.name,
            str(len(group.rows)),
            shown(group.accuracy),
            interval_shown(*group.accuracy_interval),
            shown(group.compute),
            interval_shown(*group.compute_interval),
            f"{group.macs / 1e6:.2f}",
        ]
        for group in groups
    ]
    return Table(head, rows, numbers=head[1:])


def grouped(groups: Sequence[Group], word: str) -> list[Part]:
    if len(groups) == 1:
        return [Text(f"All {len(groups[0].rows)} test clips are alike in this: {groups[0].name}.")]
    return [Drawn(lambda: run_pictures.draw_groups(groups, word)), group_table(groups, word)]


def classes(run: RunFolder, groups: Sequence[Group]) -> list[Part]:
    parts: list[Part] = []
    matrix = confusion(run.clips, run.classes)
    if len(groups) > MAX_CLASSES:
        parts.append(Text(f"The {MAX_CLASSES} least accurate of {len(groups)} classes."))
        groups = sorted(groups, key=lambda group: group.accuracy)[:MAX_CLASSES]
    parts.append(Drawn(lambda: run_pictures.draw_groups(groups, "class")))
    parts.append(group_table(groups, "class"))
    parts.append(Heading("Confusions"))
    if len(run.classes) <= MAX_CLASSES:
        parts.append(Drawn(lambda: run_pictures.draw_confusion(matrix, run.classes)))
    rows = [[label, taken, str(count)] for (label, taken), count in confusions(run.clips)[:NUM_CONFUSIONS]]
    parts.append(Table(["is", "taken for", "clips"], rows, numbers=["clips"]) if rows else Text("No clip was wrong."))
    return parts


def skipped(run: RunFolder) -> list[Part]:
    kinds, found = kinds_of_rows(run.clips), routes_of(run.clips)
    parts: list[Part] = [Stored(path, words) for name, words in STORED.items() if (path := run.picture(name))]
    if kinds.jumps or kinds.strides or kinds.gates:
        parts += [Heading("Layer by layer"), layer_table(run, kinds)]
    if not (kinds.jumps or kinds.strides):
        read = "which read the open tokens alone" if kinds.gates else "and attention read every position"
        return [*parts, Text(f"Every test clip ran every layer, {read}.")]
    top = found[:NUM_ROUTES]
    share = sum(len(route.group.rows) for route in top) / len(run.clips)
    few = f"The {len(top)} commonest of {len(found)}, taken by {share:.1%} of the test clips."
    parts += [
        Heading("Routes"),
        Text("All test clips take the same route." if len(found) == 1 else few),
        Drawn(lambda: run_pictures.draw_routes(top, len(run.clips))),
    ]
    names = [*(["layers that ran"] if kinds.jumps else []), *(["strides"] if kinds.strides else [])]
    numbers = ["clips", "share", "accuracy", "95 % interval", "compute"]
    rows = [
        [
            *([route_in_words(route.letters)] if kinds.jumps else []),
            *([strides_in_words(route.strides)] if kinds.strides else []),
            str(len(route.group.rows)),
            f"{len(route.group.rows) / len(run.clips):.1%}",
            shown(route.group.accuracy),
            interval_shown(*route.group.accuracy_interval),
            shown(route.group.compute),
        ]
        for route in top
    ]
    return [*parts, Table([*names, *numbers], rows, numbers=numbers)]


def layer_table(run: RunFolder, kinds: Kinds) -> Table:
    """As at the end of the run in the terminal: shares of the test clips."""
    layers = layers_of(run.clips)
    columns = {"layer": [str(layer) for layer in range(len(layers.ran))]}
    if kinds.jumps:
        columns |= {"ran": percent(layers.ran), "landed on": percent(layers.landed)}
    if kinds.strides:
        attends = [bool(shares[1:].any()) for shares in layers.strides]
        for stride in range(1, layers.strides.shape[1]):
            words = percent(layers.strides[:, stride])
            columns[f"stride {stride}"] = [word if can else "" for word, can in zip(words, attends, strict=True)]
    if kinds.gates:
        columns["tokens open"] = percent(layers.open_rate)
    return Table(list(columns), list(zip(*columns.values(), strict=True)), numbers=list(columns))


def single_clips(rows: Sequence[ClipRow]) -> list[Part]:
    parts: list[Part] = []
    ordered, kinds = by_cost(rows), kinds_of_rows(rows)
    if ordered[0].compute == ordered[-1].compute:
        parts.append(
            Text(f"No clip is costlier than another: each takes {ordered[0].compute:.3f} of the dense compute.")
        )
    else:
        parts += [
            Heading("The costliest, as a share of the dense compute"),
            clip_table(ordered[::-1][:NUM_CLIPS], kinds),
        ]
        parts += [Heading("The cheapest"), clip_table(ordered[:NUM_CLIPS], kinds)]
    wrong = surely_wrong(rows)
    if not wrong:
        return [*parts, Text("No test clip was wrong.")]
    return [*parts, Heading("Wrong, and the most sure of it"), clip_table(wrong[:NUM_CLIPS], kinds)]


def clip_table(rows: Sequence[ClipRow], kinds: Kinds) -> Table:
    head = ["clip", "is", "taken for", "confidence", "compute", "seconds"]
    numbers = head[3:]
    head += [*(["layers that ran"] if kinds.jumps else []), *(["strides"] if kinds.strides else [])]
    lines = [
        [
            *(row.path, row.label, row.prediction),
            *(f"{row.confidence:.3f}", f"{row.compute:.3f}", f"{row.seconds:.2f}"),
            *([route_in_words(row.route)] if kinds.jumps else []),
            *([strides_in_words(row.strides)] if kinds.strides else []),
        ]
        for row in rows
    ]
    return Table(head, lines, numbers=numbers, clips=[row.path for row in rows])


def measured(run: RunFolder) -> dict[str, list[Part]]:
    """What was measured after training, where it was: `callbacks=probe` and scripts/evaluate.py."""
    parts: dict[str, list[Part]] = {"In silence and noise": [], "What the decisions are worth": [], "Other budgets": []}
    conditions = run.adaptation.get("conditions") or []
    if conditions:
        head = ["condition", "accuracy", "loss", "compute"]
        rows = [[row["condition"], *(shown(row[key]) for key in ("acc", "loss", "fraction"))] for row in conditions]
        parts["In silence and noise"] = [Table(head, rows, numbers=head[1:])]
    sets = {name: run.adaptation.get(name) or {} for name in ("clean", "mixed")}
    rows = [
        [name, words, shown(found.get(f"{key}acc")), shown(found.get(f"{key}fraction"))]
        for name, found in sets.items()
        if "dealt_acc" in found
        for key, words in (
            ("", "each clip its own"),
            ("dealt_", "dealt to the wrong clips"),
            ("short_", "the shortest for all"),
            ("full_", "everything for all"),
        )
    ]
    if rows:
        head = ["clips", "decisions", "accuracy", "compute"]
        words = "Clean clips, and the same in noise of 0 to 20 dB: what is lost where decisions are not the clip's own?"
        parts["What the decisions are worth"] = [Text(words), Table(head, rows, numbers=head[2:])]
    if run.budgets:
        head = list(run.budgets[0])
        rows = [[figure(row[name] or "") for name in head] for row in run.budgets]
        parts["Other budgets"] = [
            Text("The same weights, asked to spend less or more."),
            Table(head, rows, numbers=head),
        ]
        if path := run.picture("budgets.png"):
            parts["Other budgets"].append(Stored(path, "Accuracy against compute of this checkpoint"))
    return parts


def figure(text: str) -> str:
    """A number of a CSV file for people."""
    try:
        value = float(text)
    except ValueError:
        return text
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


def usage(run: RunFolder) -> list[Part]:
    """The commands that go on from here; from the project's folder, where the run lies in it."""
    path = run.path.absolute()
    path = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path
    named = shlex.quote(f"run={Path(path)}")
    kept = (run.path / "checkpoints" / "best.ckpt").is_file()
    if not kept:
        return [Text("There is no checkpoint yet: checkpoints/best.ckpt is missing.")]
    lines = [f"python scripts/predict.py {named} clip.wav", f"python scripts/evaluate.py {named}"]
    lines += [f"python scripts/report.py {named}"]
    return [Code("\n".join(lines))]
