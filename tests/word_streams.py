"""Write words and background for tests of streams, and compose them."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hopscotch.data.datamodule import SPLITS
from hopscotch.data.esc50 import Esc50
from hopscotch.data.streams import Streams
from hopscotch.data.words20 import Words20
from tests.row_sources import RATE, source

WORDS = ("go", "no", "stop", "yes")
SILENCE, HEARD = 0.1, 0.2  # seconds of a clip: silence, a word, silence


def write_words(root: Path) -> Path:
    """Four words by two speakers in each split, two takes each: noise of half a second, silent at both ends."""
    rows = ["path,word,speaker,split"]
    for place, split in enumerate(SPLITS):
        for number, word in enumerate(WORDS):
            for speaker in (2 * place, 2 * place + 1):
                for take in range(2):
                    file = f"{word}_{speaker}_{take}.wav"
                    noise = np.random.default_rng([number, speaker, take]).uniform(-0.4, 0.4, round(HEARD * RATE))
                    rows.append(f"{file},{word},s{speaker},{split}")
                    write(root / "audio" / file, np.pad(noise, round(SILENCE * RATE)))
    (root / "words20.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def write_background(root: Path) -> Path:
    """Two recordings of a second for each of five folds."""
    rows = ["filename,category,fold,recording"]
    for fold in range(1, 6):
        for number in range(2):
            file = f"{fold}-{number}.wav"
            rows.append(f"{file},{'ab'[number]},{fold},{fold}{number}")
            write(root / "audio" / file, np.random.default_rng([fold, number]).normal(0, 0.1 * fold, RATE))
    (root / "esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def words_in_noise(root: Path, *more: str) -> list[str]:
    """Arguments of a run on recordings of ten seconds."""
    clips, noise = write_words(root / "words"), write_background(root / "noise")
    sizes = ["data.num_train=6", "data.num_val=4", "data.num_test=4", "data.seconds=10", "data.events_per_minute=24"]
    return ["data=streams", f"data.clips.root={clips}", f"data.background.root={noise}", *sizes, *more]


def streams(root: Path, **keys: Any) -> Streams:
    """Compose recordings of ten seconds out of what is in `root`, with keywords in half of the places."""
    given = {
        "clips": source(Words20, root=str(root / "words")),
        "background": source(Esc50, root=str(root / "noise"), fold=5, val_fold=4, labels="several"),
        "seconds": 10.0,
        "num_train": 6,
        "num_val": 4,
        "num_test": 4,
        "corpus_seed": 0,
        "keywords": ["stop", "go"],
        "distractors": True,
        "events_per_minute": 24.0,
        "distractors_per_minute": 12.0,
        "snr_db": [0.0, 20.0],
        "gain_db": 6.0,
        "train": {},
        "labels": "events",
        "sample_rate": RATE,
        "batch_size": 4,
        "num_workers": 0,
        "cache_gib": 0.0,
        "seed": 0,
        "augment": None,
    }
    return Streams(**(given | keys))
