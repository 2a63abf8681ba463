"""The embedded corpus as a data source: needs no download, hears no microphone, and proves nothing about speech.

Long scenes with one keyword in them as a data source: the embedded corpus where skipping should pay.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hopscotch.data.augment import WaveformAugment
from hopscotch.data.clips import Clip
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.synthetic import formants, scenes, words
from hopscotch.data.synthetic.corpus import SPOKEN_WORDS, Recipe, cache_root, kept_corpus


class SyntheticWords(AudioDataModule):
    """Twenty invented words, spoken by a formant synthesiser; each clip's facts are its speaker and its SNR.

    Every split has its own speakers. `corpus_seed` makes another corpus; the run's `seed` does not touch the clips.
    A source with another `recipe` is a subclass.
    """

    recipe: Recipe = SPOKEN_WORDS

    def __init__(
        self,
        *,
        num_train: int,
        num_val: int,
        num_test: int,
        corpus_seed: int,
        cache_dir: str | None,
        sample_rate: int,
        batch_size: int,
        num_workers: int,
        cache_gib: float,
        seed: int,
        augment: WaveformAugment | None,
    ) -> None:
        super().__init__(
            sample_rate=sample_rate,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_gib=cache_gib,
            seed=seed,
            augment=augment,
        )
        self.counts: dict[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        for split, count in self.counts.items():
            if count < 1:
                raise ValueError(f"data.num_{split} must be at least 1, got {count}.")
        if corpus_seed < 0:
            raise ValueError(f"data.corpus_seed must be at least 0, got {corpus_seed}.")
        if sample_rate != self.recipe.sample_rate:
            rule = f"{self.recipe.sample_rate} for data={self.recipe.name}"
            raise ValueError(f"data.sample_rate must be {rule}, got {sample_rate}.")
        self.corpus_seed = corpus_seed
        self.cache_dir = cache_root() if cache_dir is None else Path(cache_dir)
        self._samples: dict[str, NDArray[np.int16]] = {}

    def find_clips(self) -> tuple[list[str], dict[Split, list[Clip]]]:
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
    """Which of ten keywords was said among other words, noise and silence; speakers and seeds as in SyntheticWords.

    `confusable`: the partner of every keyword, the same phonemes in another order, is among the other words.
    """

    recipe = KEYWORD_SCENES

    def __init__(
        self,
        *,
        num_train: int,
        num_val: int,
        num_test: int,
        scene_seconds: float,
        confusable: bool,
        corpus_seed: int,
        cache_dir: str | None,
        sample_rate: int,
        batch_size: int,
        num_workers: int,
        cache_gib: float,
        seed: int,
        augment: WaveformAugment | None,
    ) -> None:
        super().__init__(
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            corpus_seed=corpus_seed,
            cache_dir=cache_dir,
            sample_rate=sample_rate,
            batch_size=batch_size,
            num_workers=num_workers,
            cache_gib=cache_gib,
            seed=seed,
            augment=augment,
        )
        if scene_seconds < scenes.MIN_SECONDS:
            raise ValueError(f"data.scene_seconds must be at least {scenes.MIN_SECONDS:g}, got {scene_seconds:g}.")
        recipe = CONFUSABLE_SCENES if confusable else KEYWORD_SCENES
        self.recipe = recipe._replace(numbers=(float(scene_seconds),))
