"""Make the corpus of words once, keep it, and find it again.

One file per generator and parameters: its name is a hash over the source of both modules that make a clip and over
every number that enters, so an edit of the synthesiser can never meet sound made before it. It is written beside its
place and moved there in one step, so that two makers at once only waste time.
"""

import hashlib
import inspect
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hopscotch.data import formants, words
from hopscotch.data.datamodule import Split
from hopscotch.data.progress import with_progress
from hopscotch.data.words import SpokenClip

log = logging.getLogger(__name__)

MAX_PROCESSES = 8
FEW_CLIPS = 400  # made in this process: starting others takes longer
CHUNK = 25  # clips handed to a process at a time
DAMAGE = (zipfile.BadZipFile, EOFError, KeyError, OSError, ValueError)  # zip files carry a checksum per array


class WordSplit(NamedTuple):
    """The clips of a split, one after the other."""

    samples: NDArray[np.int16]
    lengths: NDArray[np.int64]  # samples per clip
    labels: NDArray[np.int64]
    speakers: NDArray[np.int64]
    snr_db: NDArray[np.float64]


def cache_root() -> Path:
    """`.cache` of the checkout that this file lies in, or of the user where the package is installed elsewhere."""
    checkout = Path(__file__).resolve().parents[3]
    return checkout / ".cache" if (checkout / "pyproject.toml").is_file() else Path.home() / ".cache" / "hopscotch"


def corpus_path(folder: Path, counts: Mapping[Split, int], seed: int) -> Path:
    """Where the corpus of `counts` clips per split is kept."""
    parts = (inspect.getsource(formants), inspect.getsource(words), sorted(counts.items()), seed)
    return folder / "synthetic_words" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.npz"


def kept_corpus(folder: Path, counts: Mapping[Split, int], seed: int) -> dict[Split, WordSplit]:
    """The corpus from its file; where that is missing or damaged, made and kept first."""
    path = corpus_path(folder, counts, seed)
    if path.exists():
        try:
            return _read(path, counts)
        except DAMAGE as error:
            log.warning("%s is damaged (%s): made again.", path, error)
    corpus = make_corpus(counts, seed, processes=min(MAX_PROCESSES, os.cpu_count() or 1))
    try:
        _write(path, corpus)
    except OSError as error:
        log.warning(
            "The words cannot be kept in %s (%s) and will be made again; data.cache_dir moves them.", path, error
        )
    return corpus


def make_corpus(counts: Mapping[Split, int], seed: int, *, processes: int) -> dict[Split, WordSplit]:
    """Every clip, in order; the number of processes changes nothing but the time."""
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    if processes > 1 and len(jobs) > FEW_CLIPS:
        try:
            # spawn: a fork would copy the threads of torch half
            with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
                made = pool.map(partial(words.numbered_clip, seed), jobs, chunksize=CHUNK)
                clips = list(with_progress(made, len(jobs), "Speaking words"))
        except BrokenProcessPool:
            log.warning("Helpers could not start (a script without an `if __name__` guard?): speaking words alone.")
            return make_corpus(counts, seed, processes=1)
    else:
        made = (words.numbered_clip(seed, job) for job in jobs)
        clips = list(with_progress(made, len(jobs), "Speaking words"))
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
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".npz", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
