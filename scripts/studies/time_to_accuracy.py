"""Measure how long a model takes to recognise 95 and 99 % of FSDD's test clips, and SpeechBrain's x-vector too.

    python -m scripts.studies time-to-accuracy data.root=../shared/data/fsdd
        --peers FOLDER --peers-python PYTHON    the peer too
        --quick                                 one round: a look
        --out DIR                               goes on with what was stopped

    | what | seconds to 95% | seconds to 99% | test accuracy at the end | runs |
    | --- | --- | --- | --- | --- |
    | dense | 13.4 (10.1 to 16.7) | 23.1 (16.7 to 29.5) | 0.9950 | 2 |
    | learned_skip | 17.6 (13.3 to 21.8) | 26.5 (22.7 to 30.3) | 0.9950 | 2 |
    | SpeechBrain x-vector | 22.8 (22.2 to 23.4) | 36.8 (36.2 to 37.3) | 0.9967 | 2 |

Runs take turns (--rounds 3: seeds 0, 1, 2), each a process alone on all cores; seconds count from the start of the
process and hold the test after every epoch, as the peer's do. Medians, with the range. "At the end" is the mean test
accuracy of the checkpoint that was best by validation; of the peer, which has no validation clips, of its last epoch.
The peer needs an environment of its own (its README). Runs and tables go to --out; what is finished there is kept.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from hopscotch.config.typed import quoted
from hopscotch.report.text import Table, markdown
from hopscotch.system import PROJECT_ROOT

MODELS = ("dense", "learned_skip")
PEER = "SpeechBrain x-vector"
PEER_EPOCHS = 10
LEVELS = (0.95, 0.99)


def main(words: Sequence[str]) -> None:
    """Run `python -m scripts.studies time-to-accuracy`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies time-to-accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="+", metavar="override", help="as for train.py, with data.root=<folder>")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--quick", action="store_true", help="one run of each: --rounds 1")
    parser.add_argument("--peers", type=Path, help="folder with the peer's script a_sb.py")
    parser.add_argument("--peers-python", default=sys.executable, help="a python that has speechbrain")
    out = PROJECT_ROOT / "outputs" / f"time_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="folder for runs and tables (outputs/time_<now>)"
    )
    arguments = parser.parse_intermixed_args(words)
    roots = [word.removeprefix("data.root=") for word in arguments.overrides if word.startswith("data.root=")]
    if not roots:
        parser.error("data.root=<folder that holds recordings/> is needed.")
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, float | None]]] = {}
    for seed in range(1 if arguments.quick else arguments.rounds):
        for model in MODELS:
            run = partial(ours, model, seed, arguments.overrides, out)
            runs.setdefault(model, []).append(once(out / f"{model}_{seed}.json", arguments.overrides, run))
        if arguments.peers is not None:
            run = partial(peer, arguments.peers.absolute(), arguments.peers_python, roots[-1], out)
            runs.setdefault(PEER, []).append(once(out / f"peer_{seed}.json", arguments.overrides, run))
        write(runs, out)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(out / "table.md")


def once(kept: Path, overrides: list[str], run: Callable[[], dict[str, float | None]]) -> dict[str, float | None]:
    """Return the result of the run, read from an earlier call or measured and written now."""
    if not kept.exists():
        found = json.dumps({"overrides": overrides, "found": run()})
        kept.write_text(found, encoding="utf-8")
    content = json.loads(kept.read_text(encoding="utf-8"))
    if content["overrides"] != overrides:
        raise ValueError(f"{kept} was made with {content['overrides']}, not with {overrides}: choose another --out.")
    return content["found"]


def ours(model: str, seed: int, overrides: list[str], out: Path) -> dict[str, float | None]:
    tries = (out / f"{model}_{seed}_{number}" for number in count(1))
    folder = next(path for path in tries if not path.exists())  # next to one that was stopped
    words = [f"model={model}", f"seed={seed}", "experiment=fsdd", "callbacks=watch", f"hydra.run.dir={quoted(folder)}"]
    command = [sys.executable, str(PROJECT_ROOT / "train.py"), *words, "trainer.enable_progress_bar=false", *overrides]
    logged(command, out / f"{folder.name}.log")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if summary["status"] != "finished":
        raise ValueError(f"{folder} must hold a finished run, it is {summary['status']}. The same command goes on.")
    with (folder / "report" / "watch.csv").open(newline="", encoding="utf-8") as file:
        epochs = [(float(row["seconds"]), float(row["test_acc"])) for row in csv.DictReader(file)]
    return passes(epochs, summary["test"]["acc"])


def peer(scripts: Path, python: str, root: str, out: Path) -> dict[str, float | None]:
    recordings = Path(root).absolute() / "recordings"
    places = {"PEERS_FSDD": recordings, "PEERS_WORK": out / "peer_work", "PEERS_OUT": out / "peer"}
    environment = os.environ | {name: str(place) for name, place in places.items()} | {"PEERS_T0": str(time.time())}
    logged([python, str(scripts / "a_sb.py"), "--epochs", str(PEER_EPOCHS)], out / "peer.log", environment)
    found = json.loads((out / "peer" / "A_sb.json").read_text(encoding="utf-8"))["epochs"]
    return passes([(epoch["wall"], epoch["acc"]) for epoch in found], found[-1]["acc"])


def logged(command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command and append what it prints to the log."""
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment).returncode
    if code != 0:
        raise ValueError(f"{command[1]} ended with {code}, and said why in {log}.")


def passes(epochs: list[tuple[float, float]], final: float) -> dict[str, float | None]:
    """Find when each level was first passed, None if never; and the accuracy at the end."""
    found: dict[str, float | None] = {
        f"{level:g}": next((seconds for seconds, accuracy in epochs if accuracy >= level), None) for level in LEVELS
    }
    return found | {"final": final}


def write(runs: dict[str, list[dict[str, float | None]]], out: Path) -> None:
    (out / "runs.json").write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    head = ["what", *(f"seconds to {level:.0%}" for level in LEVELS), "test accuracy at the end", "runs"]
    rows = [
        [what, *(_seconds([run[f"{level:g}"] for run in many]) for level in LEVELS), _mean(many), str(len(many))]
        for what, many in runs.items()
    ]
    (out / "table.md").write_text(markdown(Table(head, rows)) + "\n", encoding="utf-8")
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def _seconds(times: list[float | None]) -> str:
    passed = [seconds for seconds in times if seconds is not None]
    if len(passed) < len(times):
        return f"passed by {len(passed)} of {len(times)}"
    return f"{statistics.median(passed):.1f} ({min(passed):.1f} to {max(passed):.1f})"


def _mean(runs: list[dict[str, float | None]]) -> str:
    return f"{statistics.mean(run['final'] or 0.0 for run in runs):.4f}"
