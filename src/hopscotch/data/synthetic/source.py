"""Use the embedded corpus as a data source, as words or as long scenes with one keyword, in which skipping should pay.

The corpus is synthesised, so it needs no download and is no evidence about speech.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.synthetic import formants, scenes, words
from hopscotch.data.synthetic.corpus import SPOKEN_WORDS, Recipe, cache_root, kept_corpus


class SyntheticWords(AudioDataModule):
    """Synthesise clips of twenty invented words; each clip's facts are its speaker and its SNR.

    Every split has its own speakers. Another `corpus_seed` makes another corpus; the run's `seed` does not change the
    clips. A source with another `recipe` is a subclass.
    """

    recipe: Recipe = SPOKEN_WORDS

    def __init__(
        self, *, num_train: int, num_val: int, num_test: int, corpus_seed: int, cache_dir: str | None, **common: Any
    ) -> None:
        """Take the arguments of `AudioDataModule` as `common`; a `cache_dir` of None is `.cache` of the project."""
        super().__init__(**common)
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        if self.sample_rate != self.recipe.sample_rate:
            rule = f"{self.recipe.sample_rate} for data={self.recipe.name}"
            raise ValueError(f"data.sample_rate must be {rule}, got {self.sample_rate}.")
        self.corpus_seed = corpus_seed
        self.cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
        self._samples: dict[str, NDArray[np.int16]] = {}

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
        """Read the kept corpus, or make it first."""
        corpus = kept_corpus(self.cache_dir, self.counts, self.corpus_seed, self.recipe)
        clips: dict[Split, list[Clip]] = {}
        for split in SPLITS:
            part = corpus[split]
            clips[split] = [
                Clip(
                    name=f"{split}/{self.recipe.classes[part.labels[index]]}_{index:05d}",
                    label=int(part.labels[index]),
                    num_samples=int(part.lengths[index]),
                    facts={"speaker": f"{split}_{part.speakers[index]:02d}", "snr_db": float(part.snr_db[index])},
                )
                for index in range(self.counts[split])
            ]
            pieces = np.split(part.samples, np.cumsum(part.lengths)[:-1])
            self._samples |= {clip.name: piece for clip, piece in zip(clips[split], pieces, strict=True)}
        return list(self.recipe.classes), clips

    def load(self, clip: Clip) -> Float[Tensor, " sample"]:
        """Return the samples of a clip in [-1, 1]."""
        return torch.from_numpy(self._samples[clip.name].astype(np.float32) / 32768.0)


KEYWORD_SCENES = Recipe(
    name="synthetic_scenes",
    title="Making scenes",
    classes=scenes.PLAIN.keywords,
    sample_rate=scenes.SCENE_RATE,
    make=scenes.numbered_scene,
    modules=(formants, words, scenes),
)
CONFUSABLE_SCENES = KEYWORD_SCENES._replace(
    name="confusable_scenes", classes=scenes.CONFUSABLE.keywords, make=scenes.confusable_scene
)


class SyntheticScenes(SyntheticWords):
    """Synthesise scenes with one of ten keywords among other words, noise and silence; the keyword is the class.

    Speakers and seeds are those of `SyntheticWords`. If `confusable`, the other words include the partner of every
    keyword, which has the same phonemes in another order.
    """

    recipe = KEYWORD_SCENES

    def __init__(self, *, scene_seconds: float, confusable: bool, **common: Any) -> None:
        """Take the arguments of `SyntheticWords` as `common`."""
        super().__init__(**common)
        recipe = CONFUSABLE_SCENES if confusable else KEYWORD_SCENES
        self.recipe = recipe._replace(numbers=(float(scene_seconds),))
