"""Measure what only a GPU can tell, and put its rows next to the CPU's: parts of scripts/studies/gpu.sh.

python -m scripts.studies.bench.gpu memory OUT                     memory.csv: megabytes of a training step, by model
python -m scripts.studies.bench.gpu beside CPU.json GPU.json OUT   benchmark.md and benchmark.csv
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hopscotch.build import build_model
from hopscotch.config.compose import CONF, compose
from hopscotch.report.text import Table, markdown
from scripts.studies.bench.clip import peak_megabytes

BATCH, SECONDS = 64, 1.0  # clips
NUM_CLASSES = 10
MEMORY = ("model", "batch", "clip_seconds", "bfloat16_mb", "float32_mb")
BESIDE = ("what", "on", "bar", "CPU, float32", "holds", "GPU, bfloat16", "holds on the GPU", "CPU ms", "GPU ms")


def main(words: Sequence[str]) -> None:
    """Run one of the two parts."""
    out = Path(words[-1])
    out.mkdir(parents=True, exist_ok=True)
    if words[0] == "memory":
        models = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
        sizes = [[f"{step_megabytes(name, 'cuda', bf16=half):.1f}" for half in (True, False)] for name in models]
        rows = [[name, BATCH, SECONDS, *both] for name, both in zip(models, sizes, strict=True)]
        write_csv(out / "memory.csv", MEMORY, rows)
        return
    cpu, gpu = (
        json.loads(Path(word).read_text(encoding="utf-8")) if Path(word).is_file() else [] for word in words[1:3]
    )
    rows = beside(cpu, gpu)
    (out / "benchmark.md").write_text(markdown(Table(BESIDE, rows)) + "\n", encoding="utf-8")
    write_csv(out / "benchmark.csv", BESIDE, rows)


def step_megabytes(name: str, device: str, *, bf16: bool, batch: int = BATCH, changes: Sequence[str] = ()) -> float:
    """Return the most that a training step holds at once, beyond the weights and the state of the optimizer."""
    cfg = compose([f"model={name}", "augment=none", *changes])
    torch.manual_seed(0)
    model = build_model(cfg, NUM_CLASSES).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    waveform = 0.1 * torch.randn(batch, int(SECONDS * cfg.data.sample_rate), device=device)
    lengths = torch.full((batch,), waveform.shape[1], device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(waveform, lengths).logits
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the state of the optimizer
    if device != "cuda":
        return peak_megabytes(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def beside(cpu: Sequence[dict[str, Any]], gpu: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Pair the rows of two benchmarks that measured the same thing; a cell is empty where one has no such row."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for device, rows in (("cpu", cpu), ("gpu", gpu)):
        for row in rows:
            found.setdefault((row["name"], on(row)), {})[device] = row
    lines = []
    for (name, shapes), rows in found.items():
        either = rows.get("cpu") or rows["gpu"]
        bar = "" if either["bar"] is None else f"{'>=' if either['at_least'] else '<='} {either['bar']:.3g}"
        cells = [cell for device in ("cpu", "gpu") for cell in (ratio(rows.get(device)), holds(rows.get(device)))]
        lines.append([name, shapes, bar, *cells, *(milliseconds(rows.get(device)) for device in ("cpu", "gpu"))])
    return lines


def on(row: dict[str, Any]) -> str:
    """Write the shapes that were chosen, without what was measured on the way (floats)."""
    return " ".join(f"{key}={value}" for key, value in row["shapes"].items() if not isinstance(value, float))


def ratio(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def holds(row: dict[str, Any] | None) -> str:
    return "" if row is None or row["bar"] is None else "yes" if row["holds"] else "NO"


def milliseconds(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['milliseconds']:.2f}"


def write_csv(path: Path, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *rows])


if __name__ == "__main__":
    main(sys.argv[1:])
