"""Count what a run survives: python -m tests.faults.table --kills 300 --others 30

Every run is one of the models below on the tones of the tests, in a process of its own; what it should have come to is
that of the same run without a fault. Prints the table of docs/reference/faults.md; with `--plain` that of plain.py, a
script of Lightning's own means.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hopscotch.report.metrics_log import MetricsLog
from hopscotch.training import whole
from hopscotch.training.checkpoint import read_checkpoint
from hopscotch.training.task import AudioTask
from hopscotch.training.whole import not_finite
from tests.faults import plain
from tests.faults.children import OFTEN, Ended, config, die_at, differing, hopscotch, start, train, wait
from tests.faults.test_numbers import losing
from tests.faults.test_resume import CHANGES
from tests.faults.test_stopping import SIGNALS, signalling
from tests.tiny import write_tones

MODELS = (
    ("model=dense", "data.num_workers=2"),
    ("model=learned_skip", "trainer.accumulate_grad_batches=2"),
    ("model=skip_layer", "trainer.val_check_interval=2"),
    ("model=skip_transformer", "augment=speakers"),
    ("model=jump_attention", "callbacks.average=null"),
    ("model=skip_transformer", "model.open_rate=0.5"),
)
EPOCHS = "trainer.max_epochs=3"
Arrange = Callable[[], object]  # something that the process of a run does first
HOOKS: tuple[tuple[Any, str], ...] = (
    (AudioTask, "training_step"),
    (AudioTask, "optimizer_step"),
    (AudioTask, "validation_step"),
    (AudioTask, "on_save_checkpoint"),
    (AudioTask, "test_step"),
    (MetricsLog, "log_metrics"),
    (torch, "save"),
    (os, "replace"),
    (Path, "unlink"),
    (whole, "_stage"),
    (whole, "write_whole"),
    (whole, "_name"),
)


class Row(NamedTuple):
    fault: str
    tried: int
    wrong: list[str]  # what went otherwise than the last column says
    expected: str

    def __str__(self) -> str:
        return f"| {self.fault} | {self.tried} | {len(self.wrong)} | {self.expected} |"


class Lab:
    """A folder with clips, what runs in it, and what the runs come to without a fault."""

    models, hooks = MODELS, HOOKS
    attempt = staticmethod(hopscotch)

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.tones = write_tones(folder / "tones")
        self.straight: dict[tuple[str, ...], tuple[Path, float]] = {}
        self.count = 0

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"run{self.count}"

    def words(self) -> tuple[str, ...]:
        return (*self.random.choice(self.models), EPOCHS, *OFTEN)

    def config(self, run: Path, words: tuple[str, ...], root: Path | None = None) -> Any:
        return config(root or self.tones, run, *words)

    def train(self, run: Path, words: tuple[str, ...], arrange: Arrange = lambda: None) -> Ended:
        return train(self.config(run, words), arrange, self.attempt)

    def differing(self, run: Path, words: tuple[str, ...]) -> list[str]:
        return differing(run, self.expected(words)[0])

    def read(self, path: Path) -> dict[str, Any]:
        return read_checkpoint(path)

    def losing(self, steps: range, where: str) -> Arrange:
        """Make a loss or gradient NaN at some steps."""
        return losing(steps, where)

    def signalling(self, number: int, at: int) -> Arrange:
        return signalling(number, at)

    def full(self, after: int) -> Arrange:
        """Have writes of more than some bytes fail, as a full disk does, from some write of a checkpoint on."""

        def arrange() -> None:
            stage, calls = whole._stage, []

            def _stage(content: Any, path: Path) -> None:
                calls.append(path)
                if len(calls) > after:
                    path.with_name(f"{path.name}.partial").write_bytes(bytes(content)[:1000])
                    raise OSError(28, "No space left on device")
                stage(content, path)

            whole._stage = _stage

        return arrange

    def expected(self, words: tuple[str, ...]) -> tuple[Path, float]:
        """The run without a fault, and how many seconds it took."""
        if words not in self.straight:
            run, begun = self.folder / f"straight{len(self.straight)}", time.monotonic()
            ended = self.train(run, words)
            assert ended.code == 0, ended.said
            self.straight[words] = run, time.monotonic() - begun
        return self.straight[words]

    def finish(self, run: Path, words: tuple[str, ...]) -> str:
        """Go on with a run to its end; say what is not as it should be."""
        ended = self.train(run, words)
        if ended.code != 0:
            return f"{words[0]}: exit {ended.code}, {ended.said[-300:]}"
        found = self.differing(run, words)
        shutil.rmtree(run)
        return f"{words}: {found[:3]}" if found else ""


def kills(lab: Lab, number: int, hooked: bool) -> Iterator[str]:
    """Kill runs, some of them again and again, and go on each time; a message for each chain that ends otherwise."""
    left = number
    while left > 0:
        words, run = lab.words(), lab.new()
        seconds = lab.expected(words)[1]
        for _ in range(min(left, lab.random.randint(1, 4))):
            left -= 1
            if hooked:
                owner, name = lab.random.choice(lab.hooks)
                lab.train(run, words, partial(die_at, owner, name, lab.random.randint(1, 14)))
            else:
                cfg = lab.config(run, words)
                pid = start(cfg, attempt=lab.attempt)
                time.sleep(lab.random.uniform(0.0, seconds))
                os.kill(pid, signal.SIGKILL)
                wait(pid, cfg)
        yield lab.finish(run, words)


def damages(lab: Lab, number: int, cut: bool) -> Iterator[str]:
    """Flip a bit of a checkpoint, or cut it: it is refused; every tenth time, go on from the one before."""
    words = (*lab.models[1], EPOCHS, *OFTEN)
    half = lab.new()
    lab.train(half, words, partial(die_at, *lab.hooks[0], 9))
    for trial in range(number):
        run = Path(shutil.copytree(half, lab.new()))
        path = run / "checkpoints" / lab.random.choice(("last.ckpt", "best.ckpt"))
        content = bytearray(path.read_bytes())
        place = lab.random.randrange(len(content))
        content[place] ^= 1 << lab.random.randrange(8)
        path.write_bytes(content[:place] if cut else content)
        try:
            lab.read(path)
            wrong = f"{path.name} was loaded, byte {place}"
        except ValueError as error:
            wrong = "" if path.name in str(error) else f"not named: {error}"
        if trial % 10 == 0 and path.name == "last.ckpt":
            wrong = wrong or lab.finish(run, words)
        yield wrong
        shutil.rmtree(run, ignore_errors=True)


def signals(lab: Lab, number: int) -> Iterator[str]:
    for trial in range(number):
        words, run, sent = lab.words(), lab.new(), SIGNALS[trial % len(SIGNALS)]
        ended = lab.train(run, words, lab.signalling(sent, lab.random.randrange(5)))
        if ended.code not in (128 + sent, -sent) or "Traceback" in ended.said:
            yield f"{sent.name}: exit {ended.code}, {ended.said[-300:]}"
        elif sent == signal.SIGINT:  # its validation may have found a better one: the weights at the end are compared
            lab.expected(words)
            again = lab.train(run, words)
            found = [one for one in lab.differing(run, words) if one.startswith("last")]
            yield f"{sent.name}: exit {again.code}, {found[:3]}" if found or again.code else ""
        else:
            yield lab.finish(run, words)


def full_disks(lab: Lab, number: int) -> Iterator[str]:
    for _ in range(number):
        words, run = lab.words(), lab.new()
        ended = lab.train(run, words, lab.full(lab.random.randint(0, 10)))
        if ended.code != 1 or "cannot be written: No space left on device. It has " not in ended.said:
            yield f"exit {ended.code}, {ended.said[-300:]}"
        else:
            yield lab.finish(run, words)


def numbers(lab: Lab, number: int) -> Iterator[str]:
    """Make losses NaN: twice, and the run ends well; at three steps in a row, and it fails; nothing of it is kept."""
    for trial in range(number):
        words, run, begins = (*lab.models[trial % 2], EPOCHS, *OFTEN), lab.new(), lab.random.randrange(4)
        is_fatal, words = trial % 3 == 2, (*words, "trainer.nonfinite_patience=3")  # the second model takes six steps
        where = "gradient" if is_fatal else "loss"
        ended = lab.train(run, words, lab.losing(range(begins, begins + (99 if is_fatal else 2)), where))
        kept = [lab.read(path) for path in (run / "checkpoints").glob("*.ckpt")]
        summary = run / "summary.json"
        left_out = json.loads(summary.read_text()).get("steps_left_out") if summary.exists() else None
        wrong = (
            ended.code != int(is_fatal) or "is not finite" not in ended.said or left_out != (None if is_fatal else 2)
        )
        poisoned = [one for checkpoint in kept for one in not_finite(checkpoint)]
        yield (
            f"{words} {where}: exit {ended.code}, {left_out}, {poisoned}, {ended.said[-300:]}"
            if wrong or poisoned
            else ""
        )


def data_changes(lab: Lab, _: int) -> Iterator[str]:
    words, half = (*lab.models[0], EPOCHS, *OFTEN), lab.new()
    lab.train(half, words, partial(die_at, *lab.hooks[0], 9))
    for change, rule in CHANGES:
        root, run = lab.folder / f"tones_{change.__name__}", Path(shutil.copytree(half, lab.new()))
        shutil.copytree(lab.tones, root)
        change(root)
        ended = train(lab.config(run, words, root), attempt=lab.attempt)
        yield "" if ended.code == 1 and rule in ended.said else f"{change.__name__}: {ended.code} {ended.said[-300:]}"
    ended = lab.train(Path(shutil.copytree(half, lab.new())), (*words, "data.batch_size=5"))
    yield "" if ended.code == 1 and "data.batch_size was 4 and is 5" in ended.said else f"batch size: {ended.said}"


def count(fault: str, expected: str, messages: Iterator[str], tried: int | None = None) -> Row:
    found = list(messages)
    row = Row(fault, len(found) if tried is None else tried, [message for message in found if message], expected)
    print(row, flush=True)
    for message in row.wrong:
        print(f"  {message}", file=sys.stderr)
    return row


def table(lab: Lab, num_kills: int, num_others: int) -> list[Row]:
    half = num_kills // 2
    same = "the same bits at the end: weights, average, best, steps"
    go: list[Callable[[], Row]] = [
        lambda: count("kill -9 at a random time, in chains of 1 to 4", same, kills(lab, half, False), half),
        lambda: count("kill -9 in a function, saves among them, likewise", same, kills(lab, half, True), half),
        lambda: count("one flipped bit in a checkpoint", "refused by name", damages(lab, 4 * num_others, False)),
        lambda: count("a cut checkpoint", "refused by name", damages(lab, 2 * num_others, True)),
        lambda: count(
            "SIGTERM, SIGUSR1, SIGHUP, Ctrl-C", "exit 128 + n; the same bits later", signals(lab, num_others)
        ),
        lambda: count("disk full", "file and bytes named; the same bits later", full_disks(lab, num_others)),
        lambda: count("NaN in loss or gradient", "step not taken, or exit 1; none kept", numbers(lab, num_others)),
        lambda: count("data or batch size changed", "named, exit 1", data_changes(lab, 0)),
    ]
    return [make() for make in go]


class PlainLab(Lab):
    """The same of a script without any means of ours."""

    models, hooks = plain.MODELS, plain.HOOKS
    attempt = staticmethod(plain.attempt)

    def config(self, run: Path, words: tuple[str, ...], root: Path | None = None) -> Any:
        return plain.Config(root or self.tones, run, *words)

    def differing(self, run: Path, words: tuple[str, ...]) -> list[str]:
        """Pass over the number of the epoch, which counts itself once more where nothing is left to do."""
        return [one for one in super().differing(run, words) if not one.endswith(" epoch")]

    def read(self, path: Path) -> dict[str, Any]:
        return plain.read(path)

    def losing(self, steps: range, where: str) -> Arrange:
        return partial(plain.lose, steps, where)

    def signalling(self, number: int, at: int) -> Arrange:
        return partial(plain.send, number, at)

    def full(self, after: int) -> Arrange:
        return partial(plain.fill, after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--others", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    print("| fault | tried | otherwise | what holds |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = table((PlainLab if given.plain else Lab)(Path(folder), given.seed), given.kills, given.others)
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    sys.exit(main())
