"""Check a machine and an installation: versions, devices, memory, disk, extras, and a few training steps."""

import importlib.util
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path

from rich.console import Console

from hopscotch.report.text import print_facts, rich_text
from hopscotch.system import outputs

PACKAGES = ("torch", "torchaudio", "lightning", "hydra-core", "numpy", "soundfile", "tensorboard")
EXTRAS = {  # module -> extra, what it is for
    "hydra_plugins.hydra_optuna_sweeper": ("sweep", "hparams_search=optuna"),
    "wandb": ("wandb", "logger=wandb"),
    "mlflow": ("mlflow", "logger=mlflow"),
    "onnxruntime": ("onnx", "hopscotch export --format onnx"),
    "sounddevice": ("microphone", "hopscotch listen --device"),
    "pandas": ("studies", "python -m scripts.studies"),
}
NUM_STEPS, LAST = 12, 3  # steps; the mean loss of the last ones has to be below the first
SMOKE = ("model=skip_transformer", "size=tiny", "model.dropout=0", "trainer.accelerator=cpu")
LEAST_DISK = 2.0  # GiB: a run of the default size with its pictures takes 0.1


def check() -> int:
    """Print what was found and return the exit code: 1 if something does not work."""
    console = Console()
    print_facts({name: rich_text(value) for name, value in facts().items()}, console)
    troubles = []
    if (free := shutil.disk_usage(nearest(outputs())).free / 2**30) < LEAST_DISK:
        troubles.append(f"Only {free:.1f} GiB are free where runs are written, {outputs()}.")
    try:
        print_facts({"smoke run": smoke()}, console)
    except Exception as error:  # whatever it is, the user has to know
        troubles.append(f"The smoke run failed: {type(error).__name__}: {error}")
    for trouble in troubles:
        print(f"Error: {trouble}", file=sys.stderr)
    print("Something is wrong." if troubles else "All is well. Next: hopscotch train model=learned_skip")
    return int(bool(troubles))


def facts() -> dict[str, str]:
    """Say what this machine is and what is installed on it."""
    import torch

    found = {"hopscotch": f"{metadata.version('hopscotch')}, python {platform.python_version()}, {platform.platform()}"}
    found["packages"] = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    found["devices"] = "CPU"
    if torch.cuda.is_available():
        found["devices"] += "".join(f", {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    elif torch.backends.mps.is_available():
        found["devices"] += ", Apple MPS"
    found["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    if memory := free_memory():
        found["free memory"] = f"{memory:.1f} GiB"
    found["free disk"] = f"{shutil.disk_usage(nearest(outputs())).free / 2**30:.1f} GiB for {outputs()}"
    missing = {module: extra for module, extra in EXTRAS.items() if not is_installed(module)}
    there = [extra for module, (extra, _) in EXTRAS.items() if module not in missing]
    found["extras"] = ", ".join(there) or "none"
    for extra, use in missing.values():
        found[f"  not {extra}"] = f"pip install 'hopscotch[{extra}]' for {use}"
    return found


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def free_memory() -> float | None:
    """Return the memory in GiB that programs can still take; None where the system does not say."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) / 2**20


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def smoke() -> str:
    """Train a tiny model for a few steps on noise, and say how long a step took and that the loss fell."""
    import torch

    from hopscotch.build import build_model
    from hopscotch.config.compose import compose

    torch.manual_seed(0)
    model = build_model(compose(SMOKE), num_classes=2)
    waveform = torch.randn(8, 16_000) * torch.tensor([0.01, 0.3] * 4)[:, None]
    lengths, labels = torch.full((8,), 16_000), torch.tensor([0, 1] * 4)
    optimizer, losses, began = torch.optim.AdamW(model.parameters(), lr=3e-3), [], time.monotonic()
    for _ in range(NUM_STEPS):
        output = model(waveform, lengths)
        loss = torch.nn.functional.cross_entropy(output.logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = losses[0], sum(losses[-LAST:]) / LAST
    if not last < first:
        raise RuntimeError(f"the loss must fall in {NUM_STEPS} steps, it went from {first:.3f} to {last:.3f}.")
    step = (time.monotonic() - began) / NUM_STEPS
    return f"{NUM_STEPS} steps of {1000 * step:.0f} ms, loss {first:.2f} to {last:.2f}"
