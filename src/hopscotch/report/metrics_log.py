"""Write every logged number to one text file that outlives the process: `<run>/metrics.jsonl`.

One object a line with `step`, `epoch` and tags, appended and handed to the system line by line, so a killed run keeps
what it logged. Three things a reader should know:

- JSON has no NaN: a number that is not finite is written as null, and the first one of each tag warns.
- A resumed run appends: steps between its checkpoint and the kill stand there twice, and the later line is true.
- A kill may leave half a line. The next writer starts a new line after it, and `plain.read_json_lines` passes over it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from hopscotch.files import append_line
from hopscotch.report.run_folder import METRICS


class MetricsLog(Logger):
    """A Lightning logger that appends to `metrics.jsonl` in `save_dir`."""

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / METRICS
        self.warned: set[str] = set()

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` beside this file is the whole truth."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, int | float | Tensor], step: int | None = None) -> None:
        epoch = int(metrics["epoch"]) if "epoch" in metrics else None
        values = {tag: self.finite(tag, float(value)) for tag, value in metrics.items() if tag != "epoch"}
        line = {"step": step, "epoch": epoch} | values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened anew for each line, some 30 microseconds: nothing is left open whichever way a run ends.
        append_line(self.path, json.dumps(line, allow_nan=False))

    def finite(self, tag: str, value: float) -> float | None:
        if math.isfinite(value):
            return value
        if tag not in self.warned:
            self.warned.add(tag)
            rank_zero_warn(f"{tag} is {value}: {METRICS} has null there, now and from here on without a word.")
        return None
