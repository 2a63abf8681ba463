"""End a run: `summary.json` for programs, a page for its reader, a few lines in the terminal for its owner."""

import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Trainer
from rich.console import Console

from hopscotch.detection import in_words
from hopscotch.files import replace_file
from hopscotch.intervals import Interval
from hopscotch.report import text
from hopscotch.report.clips import ClipRow, clip_rows, clips_of, write_clips
from hopscotch.report.collect import Evaluation
from hopscotch.report.decisions import history_cells, layers_of, route_use
from hopscotch.report.findings import find_warnings, no_better, overfitting
from hopscotch.report.run_folder import CLIPS, SUMMARY, Kept, read_run
from hopscotch.report.run_page import PAGE, Sounds, write_report
from hopscotch.system import IS_CHECKOUT, commit
from hopscotch.training.task import AudioTask

PACKAGES = ("hopscotch", "torch", "torchaudio", "lightning", "hydra-core", "numpy")
Status = Literal["finished", "stopped", "failed"]


class Best(NamedTuple):
    """The checkpoint that was kept, and what was logged of the validation that it was saved after."""

    path: Path
    kept: Kept
    validation: Mapping[str, float]


def finish(
    run: Path,
    trainer: Trainer,
    task: AudioTask,
    test: Evaluation,
    best: Best | None,
    *,
    in_training: float | None,
    early: bool,
    told: Sequence[str] = (),
    explain: Callable[[Sequence[ClipRow]], None] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write the summary and the report of a run that was tested, tell the terminal, and return the summary.

    `in_training` is the primary metric on training clips; `explain` draws pages of single test clips. `early` says that
    the training ended too soon to be judged; `told` are more warnings. `facts` are further keys of the summary:
    `status`, `model`, `seed`, `seconds`, and where there are classes those of `hopscotch.metrics.class_facts`.
    """
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in fit
    floor, skips = task.model.cost(round(data.mean_samples())).floor, task.model.skips
    logged = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("test/")}
    tested = {tag.removeprefix("test/"): value for tag, value in logged.items()}
    validation = {} if best is None else best.validation
    spent = {"compute_fraction": validation.get("val/compute_fraction")}
    kept = None if best is None else best.kept._asdict() | spent
    name = task.primary.name
    sure = test.interval(tested[name], data.clips["test"])
    warnings = find_warnings(
        test,
        decides=task.model.decides,
        floor=floor,
        target=task.target,
        validated=task.calibration is not None or bool(task.model.decision_bias),
        early=early,
    ) + list(told)
    by_heart = bool(trainer.overfit_batches)  # pyright: ignore[reportAttributeAccessIssue]  # clips that are meant to be over-fitted
    if not early:
        warnings += no_better(test, facts.get("majority_baseline"), facts.get("majority_class"))
        warnings += [] if by_heart else overfitting(task.primary, in_training, tested[name], "test", sure)
    figures = {"val": validation.get(f"val/{name}"), "test": tested[name], "interval": sure and asdict(sure)}
    summary: dict[str, Any] = {
        "test": tested,
        "primary": {**task.primary._asdict(), **figures},
        "kept": kept,
        "compute": {**test.compute, "floor": floor, **({} if task.target is None else {"target": task.target})},
        "parameters": task.num_parameters,
        "warnings": warnings,
        "epochs": trainer.current_epoch,
        "decides": task.model.decides,
        "skips": sorted(skips),
        "data": data.summary(),
        **facts,
        "time_fraction": facts["seconds"]["test_clip"] / facts["seconds"]["test_clip_dense"],
        **({"learned_by_heart": in_training} if by_heart and in_training is not None else {}),
    }
    write_summary(run, **summary)
    write_pages(run, trainer, test, explain)
    print_summary(run, test, skips, summary | {"metrics": {name: tested[name] for name in task.metric_names}})
    return summary


def write_pages(
    run: Path,
    trainer: Trainer,
    test: Evaluation,
    explain: Callable[[Sequence[ClipRow]], None] | None,
) -> None:
    """Write clips, pictures, page and card; if that fails the training is done all the same, and its summary stays."""
    try:
        rows = clip_rows(test, clips_of(trainer, "test"))
        write_clips(rows, run / "report" / CLIPS)
        if explain is not None:
            explain(rows)
        write_report(read_run(run), Sounds(trainer.datamodule))  # pyright: ignore[reportAttributeAccessIssue]
    except (Exception, KeyboardInterrupt) as error:
        why = f"{type(error).__name__}: {error}"
        print(f"warning: the run is finished, its report is not whole: {why}", file=sys.stderr)


def write_summary(run_folder: str | Path, *, status: Status, model: str, seed: int, **facts: object) -> Path:
    """Write `summary.json`, whole or not at all. `facts` are further keys, such as `error`.

    A run that failed early has no test figures: those keys are there, and null.
    """
    content = {"status": status, "model": model, "seed": seed}
    content |= dict.fromkeys(("test", "compute", "parameters", "seconds"))
    content |= {"warnings": [], "versions": versions(), "commit": commit() if IS_CHECKOUT else None, **facts}
    path = Path(run_folder) / SUMMARY
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.json_text(content, indent=2) + "\n")
    return path


def versions() -> dict[str, str]:
    """List what this run ran on."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a checkout without installing
            found[package] = "not installed"
    return found


def print_summary(
    run_folder: str | Path,
    test: Evaluation,
    skips: frozenset[str],
    summary: Mapping[str, Any],
    console: Console | None = None,
) -> None:
    """Print figures, what each layer did, warnings, how to look closer; the run's folder is the last line.

    `summary` is that of summary.json, and `metrics` of the test with the primary one first.
    """
    console, trace = console or text.make_console(), test.trace
    console.print()
    text.print_facts(headline(test, summary), console)
    if skips:
        layers = layers_of(history_cells(trace), trace.strides.numpy(), trace.open_rate.numpy())
        use = route_use(trace)
        ways = f": {use.routes} routes, the commonest taken by {use.top_route:.0%} of them" if use.routes > 1 else ""
        console.print(f"\nWhat the test clips did{ways}")  # no title of the table, which would be broken to its width
        text.print_table(layers.table(skips, test.thresholds), console)
    text.print_warnings(summary["warnings"], console)
    # Plain print for what is copied or parsed: rich would break long lines.
    if (page := Path(run_folder) / PAGE).is_file():
        console.file.write(f"the report:  {page}\n")
    if next(Path(run_folder).rglob("events.out.tfevents.*"), None):
        console.file.write(f"look closer: {tensorboard_command(run_folder)}\n")
    if compare := summary.get("compare"):
        console.file.write(f"compare:     {compare}\n")
    console.file.write(f"{run_folder}\n")


def headline(test: Evaluation, summary: Mapping[str, Any]) -> dict[str, str]:
    """Say what one asks first of a run that was tested."""
    compute, seconds, kept = summary["compute"], summary["seconds"], summary["kept"]
    found = (summary.get("primary") or {}).get("interval")
    num_bad = summary["data"]["bad"]["test"]
    facts = text.test_facts(summary["metrics"], test.num_clips, found and Interval(**found), num_bad)
    if test.has_classes:
        facts["majority baseline"] = text.number(summary["majority_baseline"])
    facts |= in_words({name: Interval(**one) for name, one in (summary.get("detection") or {}).items()})
    facts |= text.compute_facts(compute["fraction"], compute["macs"], compute.get("target"))
    facts |= text.time_facts(seconds["test_clip"], seconds["test_clip_dense"])
    if "learned_by_heart" in summary:
        facts[f"training {next(iter(summary['metrics']))}"] = (
            f"{text.number(summary['learned_by_heart'])}  (of the batches to learn by heart)"
        )
    if kept is not None:
        value = "" if kept["value"] is None else f", {kept['monitor']} {kept['value']:.4f}"
        last = max(summary["epochs"], kept["epoch"] + 1)
        facts["kept"] = f"epoch {kept['epoch'] + 1} of {last}{value}"
    facts["minutes"] = f"{seconds['total'] / 60:.1f}  ({seconds['fit'] / 60:.1f} of training)"
    facts["parameters"] = f"{summary['parameters']:,}"
    return facts


def tensorboard_command(run_folder: str | Path) -> str:
    """Give a command that works when pasted: TensorBoard by its path where the environment is not activated."""
    beside = Path(sys.executable).with_name("tensorboard")
    program = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))
    # The server keeps ten pictures and ten sounds of a tag unless told otherwise.
    return f"{program} --logdir {shlex.quote(str(run_folder))} --samples_per_plugin images=100,audio=50"
