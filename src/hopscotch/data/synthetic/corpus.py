"""Make a corpus of spoken clips once, and keep it in a file.

There is one file per recipe and parameters: its name is a hash of the code that makes a clip and of every number that
enters, so that changed code never finds sound made before the change. Comments and docstrings do not count. The file
is written under another name and renamed in one step, so that two processes at once only waste time.
"""

import ast
import hashlib
import inspect
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hopscotch.data.datamodule import Split
from hopscotch.data.synthetic import formants, words
from hopscotch.data.synthetic.words import SpokenClip
from hopscotch.progress import with_progress
from hopscotch.system import IS_CHECKOUT, PROJECT_ROOT

log = logging.getLogger(__name__)

MAX_PROCESSES = 8
FEW_CLIPS = 400  # made in this process: starting others takes longer
CHUNK = 25  # clips handed to a process at a time
DAMAGE = (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError)  # zip files carry a checksum per array


class Recipe(NamedTuple):
    """Describe how the clips of a corpus are made: everything they depend on except counts and seed."""

    name: str  # of the data source, and of the folder that keeps the corpus
    title: str  # of the progress bar
    classes: tuple[str, ...]
    sample_rate: int  # Hz
    make: Callable[..., SpokenClip]  # (*numbers, seed, (split, index)); a module's own function, for the process pool
    modules: tuple[ModuleType, ...]  # whose source decides what `make` returns
    numbers: tuple[float, ...] = ()


SPOKEN_WORDS = Recipe(
    name="synthetic_words",
    title="Speaking words",
    classes=words.WORDS,
    sample_rate=formants.SAMPLE_RATE,
    make=words.numbered_clip,
    modules=(formants, words),
)


class WordSplit(NamedTuple):
    """Hold the clips of a split end to end."""

    samples: NDArray[np.int16]
    lengths: NDArray[np.int64]  # samples per clip
    labels: NDArray[np.int64]
    speakers: NDArray[np.int64]
    snr_db: NDArray[np.float64]


def cache_root() -> Path:
    """Find `.cache` of the checkout, or of the user if the package is installed elsewhere."""
    return PROJECT_ROOT / ".cache" if IS_CHECKOUT else Path.home() / ".cache" / "hopscotch"


def code_of(module: ModuleType) -> str:
    """Return the source of a module without comments and docstrings."""
    tree = ast.parse(inspect.getsource(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)


def corpus_path(folder: Path, counts: Mapping[Split, int], seed: int, recipe: Recipe = SPOKEN_WORDS) -> Path:
    """Name the file that keeps the corpus of `counts` clips per split."""
    parts = (*map(code_of, recipe.modules), sorted(counts.items()), seed, *recipe.numbers)
    return folder / recipe.name / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.npz"


def kept_corpus(
    folder: Path, counts: Mapping[Split, int], seed: int, recipe: Recipe = SPOKEN_WORDS
) -> dict[Split, WordSplit]:
    """Read the corpus from its file; if that is missing or damaged, make and keep it first."""
    path = corpus_path(folder, counts, seed, recipe)
    if path.exists():
        try:
            return _read(path, counts)
        except DAMAGE as error:
            log.warning("%s is damaged (%s): made again.", path, error)
    corpus = make_corpus(counts, seed, recipe, processes=min(MAX_PROCESSES, os.cpu_count() or 1))
    try:
        _write(path, corpus)
    except OSError as error:
        log.warning(
            "The clips cannot be kept in %s (%s) and will be made again; data.cache_dir moves them.", path, error
        )
    return corpus


def make_corpus(
    counts: Mapping[Split, int], seed: int, recipe: Recipe = SPOKEN_WORDS, *, processes: int
) -> dict[Split, WordSplit]:
    """Make every clip, in order; the number of processes changes only the time."""
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    make = partial(recipe.make, *recipe.numbers, seed)
    if processes > 1 and len(jobs) > FEW_CLIPS:
        try:
            # spawn: a fork would copy the threads of torch incompletely
            with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                made = pool.map(make, jobs, chunksize=CHUNK)
                clips = list(with_progress(made, len(jobs), recipe.title))
        except BrokenProcessPool:
            log.warning("Helpers could not start (a script without an `if __name__` guard?): making clips alone.")
            return make_corpus(counts, seed, recipe, processes=1)
    else:
        made = map(make, jobs)
        clips = list(with_progress(made, len(jobs), recipe.title))
    corpus: dict[Split, WordSplit] = {}
    start = 0
    for split, count in counts.items():
        corpus[split] = _join(clips[start : start + count])
        start += count
    return corpus


def _join(clips: list[SpokenClip]) -> WordSplit:
    return WordSplit(
        samples=np.concatenate([clip.samples for clip in clips]),
        lengths=np.array([len(clip.samples) for clip in clips]),
        labels=np.array([clip.label for clip in clips]),
        speakers=np.array([clip.speaker for clip in clips]),
        snr_db=np.array([clip.snr_db for clip in clips]),
    )


def _read(path: Path, counts: Mapping[Split, int]) -> dict[Split, WordSplit]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {split: WordSplit(*(file[f"{split}.{name}"] for name in WordSplit._fields)) for split in counts}


def _write(path: Path, corpus: Mapping[Split, WordSplit]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        f"{split}.{name}": array for split, part in corpus.items() for name, array in part._asdict().items()
    }
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as unfinished:
        np.savez(Path(unfinished, path.name), **arrays)
        os.replace(Path(unfinished, path.name), path)
