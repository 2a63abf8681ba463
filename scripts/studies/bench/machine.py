"""Describe the machine that a figure was measured on, for every row of a benchmark."""

import os
import platform
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")  # on Linux; platform knows the instruction set alone there
MODEL = "model name"

Facts = dict[str, str | int]


def machine() -> Facts:
    """Describe the machine in its current state: the next item may use another number of threads."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": metadata.version("lightning"),
        "date": date.today().isoformat(),
    }


def device_facts(device: str, *, bf16: bool) -> Facts:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "precision": "bfloat16" if bf16 else "float32"}


def processor() -> str:
    """Return the instruction set, and the name of the processor if the system tells it."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(MODEL)]
    return " ".join([*names[:1], platform.machine()])
