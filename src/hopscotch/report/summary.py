"""End a run: `summary.json` for programs, a page in the terminal for its owner."""

import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from hopscotch.report.json_text import json_text
from hopscotch.report.numbers import Kinds, attention_layers, kinds_of, layer_means, stride_shares
from hopscotch.report.traces import Evaluation

FILE_NAME = "summary.json"
PACKAGES = ("hopscotch", "torch", "torchaudio", "lightning", "hydra-core", "numpy")
Status = Literal["finished", "stopped", "failed"]


def write_summary(
    run_folder: str | Path,
    *,
    status: Status,
    model: str,
    seed: int,
    test: Mapping[str, float] | None = None,
    compute: Mapping[str, float] | None = None,
    parameters: int | None = None,
    seconds: Mapping[str, float] | None = None,
    warnings: Sequence[str] = (),
    **facts: object,
) -> Path:
    """Write `summary.json`, whole or not at all. `facts` are further keys, such as `error`.

    A run that failed early has no test figures: those keys are there, and null.
    """
    content = {
        "status": status,
        "model": model,
        "seed": seed,
        "test": None if test is None else dict(test),
        "compute": None if compute is None else dict(compute),
        "parameters": parameters,
        "seconds": None if seconds is None else dict(seconds),
        "warnings": list(warnings),
        "versions": versions(),
        **facts,
    }
    path = Path(run_folder) / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".json.unfinished")  # in the same folder: a rename across file systems is a copy
    unfinished.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path


def versions() -> dict[str, str]:
    """What this run ran on."""
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
    *,
    parameters: int,
    warnings: Sequence[str] = (),
    kinds: Kinds | None = None,
    console: Console | None = None,
) -> None:
    """Accuracy, compute, what each layer did, warnings, and how to look closer; the run's folder is the last line."""
    console = console or Console()
    kinds = kinds_of(test.trace) if kinds is None else kinds
    console.print()
    console.print(f"[bold]test accuracy[/bold]     {test.accuracy:.4f}  ({test.num_clips} clips)", highlight=False)
    macs = test.trace.macs.double().mean().item() / 1e6
    console.print(
        f"[bold]compute fraction[/bold]  {test.compute_fraction:.4f}  ({macs:.2f} million multiply-accumulates a clip)",
        highlight=False,
    )
    console.print(f"[bold]parameters[/bold]        {parameters:,}", highlight=False)
    if kinds.decides or kinds.strides or kinds.jumps or kinds.gates:
        console.print("\nWhat the test clips did")  # no title of the table, which would be broken to its width
        console.print(layer_table(test, kinds))
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {warning}", highlight=False, soft_wrap=True)
    console.print()
    # Plain print for what is copied or parsed: rich would break long lines.
    if (page := Path(run_folder) / "report" / "index.html").is_file():
        console.file.write(f"the report:  {page}\n")
    console.file.write(f"look closer: {tensorboard_command(run_folder)}\n{run_folder}\n")


def layer_table(test: Evaluation, kinds: Kinds) -> Table:
    """Shares of the test clips by layer: who ran it, with which stride, and how open its gate was."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    means = layer_means(test.trace)
    columns: dict[str, list[str]] = {"layer": [str(layer) for layer in range(test.trace.visited.shape[1])]}
    if kinds.jumps:
        columns["ran"] = percent(means["jump/visited"])
        columns["landed"] = percent(test.trace.landings.double().mean(dim=0).numpy())
    if kinds.strides:
        shares = stride_shares(test.trace)
        shares[[layer for layer in range(len(shares)) if layer not in attention_layers(test.trace)]] = np.nan
        heads = ["stride 1", *map(str, range(2, shares.shape[1]))]
        columns |= {head: percent(share) for head, share in zip(heads, shares.T[1:], strict=True)}
    if kinds.gates:
        columns["tokens open"] = percent(means["gate/open_rate"])
        thresholds = [test.thresholds.get(layer) for layer in range(len(columns["layer"]))]
        columns["threshold"] = ["" if threshold is None else f"{threshold:.3f}" for threshold in thresholds]
    for head in columns:
        table.add_column(head, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def percent(shares: Iterable[float]) -> list[str]:
    """Shares as whole percents; nothing for NaN, a dot for exactly none."""
    return ["" if share != share else "·" if share == 0 else f"{share:.0%}" for share in shares]


def tensorboard_command(run_folder: str | Path) -> str:
    """A command that works when pasted: TensorBoard by its path where the environment is not activated."""
    beside = Path(sys.executable).with_name("tensorboard")
    program = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else shlex.quote(str(beside))
    # The server keeps ten pictures and ten sounds of a tag unless told otherwise.
    return f"{program} --logdir {shlex.quote(str(run_folder))} --samples_per_plugin images=100,audio=50"
