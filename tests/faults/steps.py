"""Go on from every state that runs have kept: python -m tests.faults.steps --processes 2

For each configuration of conf/model a run of 36 steps is made once, and its folder is copied after each write of a
checkpoint. In each copy the run goes on, as it would after a kill there, and both ends are compared bit by bit.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hopscotch.training import saving
from tests.faults.children import OFTEN, config, differing, start, train, wait
from tests.tiny import MODELS, write_tones

WORDS = ("data.batch_size=2", "trainer.limit_train_batches=6", "trainer.max_epochs=6")  # 36 steps
MORE = {
    "learned_skip": ("trainer.accumulate_grad_batches=2", "trainer.max_epochs=12"),  # 36 steps, too
    "skip_layer": ("trainer.val_check_interval=2",),
    "skip_transformer": ("trainer.val_check_interval=4", "data.num_workers=2"),
    "dense": ("callbacks.average=null", "augment=speakers"),
}


def copying(run: Path, states: Path) -> None:
    """Copy what a run has kept after each write."""
    for name in ("write_whole", "copy_whole"):
        setattr(saving, name, _copies(getattr(saving, name), run, states))


def _copies(write: Any, run: Path, states: Path) -> Any:
    def writes(*arguments: Any) -> None:
        write(*arguments)
        shutil.copytree(run, states / f"{len(os.listdir(states)):03d}")

    return writes


def from_every_state(
    tones: Path, folder: Path, words: Sequence[str], num_processes: int = 1, every: int = 1
) -> Iterator[str]:
    """Go on from all that a run keeps, the last state first; a message for each, empty where the end is the same.

    So many go on at a time; from each `every`th state alone.
    """
    states, straight, words = folder / "states", folder / "straight", (*words, *OFTEN)
    states.mkdir(parents=True)
    ended = train(config(tones, straight, *words), lambda: copying(straight, states))
    assert ended.code == 0, ended.said
    left = [state for state in sorted(states.iterdir()) if (state / "checkpoints" / "last.ckpt").is_file()]
    left = left[::-every]
    while left:
        some, left = left[:num_processes], left[num_processes:]
        steps = [step_of(state / "checkpoints" / "last.ckpt") for state in some]
        cfgs = [config(tones, state, *words) for state in some]
        for cfg, step, pid in zip(cfgs, steps, [start(cfg) for cfg in cfgs], strict=True):
            ended = wait(pid, cfg)
            found = ended.said[-300:].splitlines() if ended.code else differing(Path(cfg.run_dir), straight)
            yield f"{' '.join(words)}, step {step}, {Path(cfg.run_dir).name}: {found[:4]}" if found else ""
            shutil.rmtree(cfg.run_dir)


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="go on from each state with such a distance")
    words = parser.parse_args()
    begun, wrong = time.monotonic(), []
    print("| configuration | states | otherwise |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        tones = write_tones(Path(folder) / "tones")
        for name in words.models:
            more = (f"model={name}", *WORDS, *MORE.get(name, ()))
            found = list(from_every_state(tones, Path(folder) / name, more, words.processes, words.every))
            wrong += [message for message in found if message]
            print(f"| {' '.join((more[0], *more[4:]))} | {len(found)} | {len([*filter(None, found)])} |", flush=True)
            shutil.rmtree(Path(folder) / name)
    print(*wrong, sep="\n", file=sys.stderr)
    print(f"in {time.monotonic() - begun:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    sys.exit(main())
