"""End a run: `summary.json` for programs, a page for its reader, a few lines in the terminal for its owner."""

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import Trainer
from rich.console import Console

from hopscotch.report import text
from hopscotch.report.clips import ClipRow, clip_rows, clips_of, write_clips
from hopscotch.report.collect import Evaluation
from hopscotch.report.decisions import history_cells, layers_of
from hopscotch.report.figures import draw_report
from hopscotch.report.findings import find_warnings, overfitting
from hopscotch.report.run_folder import CLIPS, SUMMARY, read_run
from hopscotch.report.run_page import PAGE, Sounds, write_report
from hopscotch.training.task import AudioTask

PACKAGES = ("hopscotch", "torch", "torchaudio", "lightning", "hydra-core", "numpy")
Status = Literal["finished", "stopped", "failed"]


class Best(NamedTuple):
    """The checkpoint that was kept, and what was logged of the validation that it was saved after."""

    epoch: int
    step: int
    monitor: str | None  # None: the last one was kept, whatever its metrics
    value: float | None
    validation: Mapping[str, float]


def finish(
    run: Path,
    trainer: Trainer,
    task: AudioTask,
    test: Evaluation,
    best: Best | None,
    *,
    in_training: float | None,
    explain: Callable[[Sequence[ClipRow]], None] | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write the summary and the report of a run that was tested, tell the terminal, and return the summary.

    `in_training` is the primary metric on training clips; `explain` draws pages of single test clips. `facts` are
    further keys of the summary: `status`, `model`, `seed`, `seconds`, which gains `test_clip`.
    """
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it in fit
    floor, skips = task.model.cost(round(data.mean_samples())).floor, task.model.encoder.skips
    logged = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag.startswith("test/")}
    tested = {tag.removeprefix("test/"): value for tag, value in logged.items()}
    validation = {} if best is None else best.validation
    kept = None if best is None else best._asdict() | {"compute_fraction": validation.get("val/compute_fraction")}
    if kept is not None:
        del kept["validation"]
    name = task.primary.name
    warnings = find_warnings(
        test,
        decides=task.model.decides,
        floor=floor,
        target=task.target,
        validated=task.calibration is not None or bool(task.model.decision_bias),
    )
    warnings += overfitting(task.primary, in_training, tested[name], "test")
    target = {} if task.target is None else {"target": task.target}
    summary: dict[str, Any] = {
        "test": tested,
        "primary": {**task.primary._asdict(), "val": validation.get(f"val/{name}"), "test": tested[name]},
        "kept": kept,
        "compute": {**test.compute, "floor": floor, **target},
        "parameters": task.num_parameters,
        "warnings": warnings,
        "epochs": trainer.current_epoch,
        "skips": sorted(skips),
        "data": data.summary(),
        **facts,
        "seconds": {"test_clip": task.test_seconds / test.num_clips, **facts["seconds"]},
    }
    write_summary(run, **summary)
    try:
        draw_report(run, test, skips)
        rows = clip_rows(test, clips_of(trainer, "test"))
        write_clips(rows, run / "report" / CLIPS)
        if explain is not None:
            explain(rows)
        write_report(read_run(run), Sounds(data))
    except (Exception, KeyboardInterrupt) as error:  # the training is done, and its summary stays
        why = f"{type(error).__name__}: {error}"
        print(f"warning: the run is finished, its report is not whole: {why}", file=sys.stderr)
    metrics = {name: tested[name] for name in task.metric_names}
    print_summary(run, test, skips, metrics=metrics, parameters=task.num_parameters, warnings=warnings)
    return summary


def write_summary(run_folder: str | Path, *, status: Status, model: str, seed: int, **facts: object) -> Path:
    """Write `summary.json`, whole or not at all. `facts` are further keys, such as `error`.

    A run that failed early has no test figures: those keys are there, and null.
    """
    content = {"status": status, "model": model, "seed": seed}
    content |= dict.fromkeys(("test", "compute", "parameters", "seconds"))
    content |= {"warnings": [], "versions": versions(), **facts}
    path = Path(run_folder) / SUMMARY
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".json.unfinished")  # in the same folder: a rename across file systems is a copy
    unfinished.write_text(text.json_text(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
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
    *,
    metrics: Mapping[str, float],
    parameters: int,
    warnings: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print metrics, compute, what each layer did, warnings, how to look closer; the run's folder is the last line."""
    console, trace = console or Console(), test.trace
    facts = text.compute_facts(test.compute_fraction, test.compute["macs"]) | {"parameters": f"{parameters:,}"}
    console.print()
    text.print_facts(text.test_facts(metrics, test.num_clips) | facts, console)
    if skips:
        layers = layers_of(history_cells(trace), trace.strides.numpy(), trace.open_rate.numpy())
        console.print("\nWhat the test clips did")  # no title of the table, which would be broken to its width
        text.print_table(layers.table(skips, test.thresholds), console)
    text.print_warnings(warnings, console)
    # Plain print for what is copied or parsed: rich would break long lines.
    if (page := Path(run_folder) / PAGE).is_file():
        console.file.write(f"the report:  {page}\n")
    console.file.write(f"look closer: {tensorboard_command(run_folder)}\n{run_folder}\n")


def tensorboard_command(run_folder: str | Path) -> str:
    """Give a command that works when pasted: TensorBoard by its path where the environment is not activated."""
    beside = Path(sys.executable).with_name("tensorboard")
    program = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))
    # The server keeps ten pictures and ten sounds of a tag unless told otherwise.
    return f"{program} --logdir {shlex.quote(str(run_folder))} --samples_per_plugin images=100,audio=50"
