"""Everything that the folder of a run says of it, read once: whatever is not there yet is missing by name."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hopscotch.report.clip_table import FILE as CLIPS_FILE
from hopscotch.report.clip_table import ClipRow, read_clips
from hopscotch.report.metrics_log import FILE_NAME as METRICS_FILE
from hopscotch.report.metrics_log import read_metrics
from hopscotch.report.records import read_overrides
from hopscotch.report.summary import FILE_NAME as SUMMARY_FILE

CONFIG_FILE = "config.yaml"
MISSING = {  # file -> what a reader will look for in vain
    SUMMARY_FILE: "the run is still going, or was ended before it could sum up",
    METRICS_FILE: "nothing is logged yet: no learning curves",
    f"report/{CLIPS_FILE}": "no test clips yet: nothing on classes, routes and single clips",
}
Content = TypeVar("Content")


@dataclass(frozen=True)
class RunFolder:
    path: Path
    config: Mapping[str, Any]
    overrides: Sequence[str]
    summary: Mapping[str, Any]  # empty until there is one
    metrics: Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
    clips: Sequence[ClipRow]  # of the test
    adaptation: Mapping[str, Any]
    budgets: Sequence[Mapping[str, str]]
    started: str  # date and time

    @property
    def status(self) -> str:
        return str(self.summary.get("status", "no summary"))

    @property
    def classes(self) -> list[str]:
        """As the data have them; else those that the clips show."""
        known = (self.summary.get("data") or {}).get("classes")
        return list(known or dict.fromkeys([row.label for row in self.clips] + [row.prediction for row in self.clips]))

    @property
    def missing(self) -> list[str]:
        """What is not there, in words."""
        there = {SUMMARY_FILE: self.summary, METRICS_FILE: self.metrics, f"report/{CLIPS_FILE}": self.clips}
        return [f"{name} is missing: {words}." for name, words in MISSING.items() if not there[name]]

    def picture(self, name: str) -> Path | None:
        path = self.path / "report" / name
        return path if path.is_file() else None


def config_of(run: Path) -> Path:
    """Where a run has its configuration; a folder without is no run."""
    if not (run / CONFIG_FILE).is_file():
        raise ValueError(f"run must be the folder of a run, got {run}: no {CONFIG_FILE} there.")
    return run / CONFIG_FILE


def read_run(path: Path) -> RunFolder:
    """A run that goes on, was stopped or has failed has fewer files; one without config.yaml is none."""
    config = config_of(path)
    summary: dict[str, Any] = _read(path / SUMMARY_FILE, _json, {})
    began = datetime.fromtimestamp(config.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    return RunFolder(
        path=path,
        config=_read(config, _yaml, {}),
        overrides=_read(path / "overrides.yaml", read_overrides, []),
        summary=summary,
        metrics=_read(path / METRICS_FILE, read_metrics, []),
        clips=_read(path / "report" / CLIPS_FILE, read_clips, []),
        adaptation=_read(path / "report" / "adaptation.json", _json, {}),
        budgets=_read(path / "report" / "budgets.csv", _csv, []),
        started=str(summary.get("started", began)),
    )


def _read(path: Path, reader: Callable[[Path], Content], nothing: Content) -> Content:
    if not path.is_file():
        return nothing
    try:
        return reader(path)
    except (KeyError, TypeError, ValueError, OmegaConfBaseException, YAMLError) as error:  # what broken files raise
        words = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be as a run of this version writes it, got {type(error).__name__}: {words}"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _yaml(path: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(path))


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
