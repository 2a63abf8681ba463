"""Long scenes with one keyword in them as a data source: the embedded corpus where skipping should pay."""

from hopscotch.data import formants, scenes, words
from hopscotch.data.augment import WaveformAugment
from hopscotch.data.synthetic_words import SyntheticWords
from hopscotch.data.word_corpus import Recipe

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
