"""The same command and seed give the same bits: twice, with loader workers, and after a crash."""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lightning.pytorch.callbacks import ModelCheckpoint

from hopscotch.build import build_callbacks
from tests.tiny import StopAt, build, differing, fit, tiny_config, weights

EPOCHS = "trainer.max_epochs=2"  # of four steps each

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning",  # the one that kept every step
)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tones: Path, tmp_path: Path) -> None:
    choice = ("model=skip_layer", EPOCHS)
    first = weights(fit(tiny_config(tones, tmp_path, *choice)))
    again = weights(fit(tiny_config(tones, tmp_path, *choice)))
    other = weights(fit(tiny_config(tones, tmp_path, *choice, "seed=1")))
    assert differing(first, again) == []
    assert "model.head.linear.weight" in differing(first, other)


def test_loader_workers_change_neither_weights_nor_validation(tones: Path, tmp_path: Path) -> None:
    without = fit(tiny_config(tones, tmp_path, "model=learned_skip", EPOCHS))
    beside = fit(tiny_config(tones, tmp_path, "model=learned_skip", EPOCHS, "data.num_workers=2"))
    assert differing(weights(without), weights(beside)) == []
    assert without.callback_metrics.keys() == beside.callback_metrics.keys() >= {"val/acc", "val/compute_fraction"}
    assert {name for name, value in without.callback_metrics.items() if value != beside.callback_metrics[name]} == set()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
def test_neither_workers_nor_where_clips_are_kept_change_weights(tones: Path, tmp_path: Path) -> None:
    """Two clips of another rate are resampled in steps, and cropped."""
    root = tmp_path / "clips"
    shutil.copytree(tones, root)
    for i, name in enumerate(("high", "low")):
        noise = np.random.default_rng(i).uniform(-0.5, 0.5, 3 * 44_100)
        soundfile.write(root / name / f"a{i}.flac", noise, 44_100)
    more = ("model=learned_skip", "augment=speakers", "data.max_seconds=0.2", f"data.cache_dir={tmp_path / 'cache'}")
    memory, disk, files = ["data.disk_cache_gib=0"], ["data.cache_gib=0"], ["data.cache_gib=0", "data.disk_cache_gib=0"]
    found, kept = [], []
    for where, num_workers in product((memory, disk, files), (0, 1, 4)):
        cfg = tiny_config(root, tmp_path, *more, "trainer.max_steps=3", *where, f"data.num_workers={num_workers}")
        task, data = build(cfg)
        kept.append(data.summary()["kept"])
        found.append(weights(fit(cfg, built=(task, data))))
    assert kept == 3 * [["memory"]] + 3 * [["disk"]] + 3 * [["nowhere"]]
    assert [differing(found[0], other) for other in found[1:]] == [[]] * 8


@pytest.mark.parametrize("model", ["skip_layer", pytest.param("learned_skip_gain", marks=pytest.mark.slow)])
def test_a_run_that_crashed_in_its_second_epoch_resumes_to_the_same_weights(
    tones: Path, tmp_path: Path, model: str
) -> None:
    straight = tiny_config(tones, tmp_path / "straight", f"model={model}", EPOCHS)
    crashed = tiny_config(tones, tmp_path / "crashed", f"model={model}", EPOCHS)
    expected = weights(fit(straight, *build_callbacks(straight)))
    with pytest.raises(StopAt.Crash):
        fit(crashed, *build_callbacks(crashed), StopAt(6))
    resumed = fit(crashed, *build_callbacks(crashed), ckpt_path=tmp_path / "crashed" / "checkpoints" / "last.ckpt")
    assert resumed.global_step == 8
    assert differing(expected, weights(resumed)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("model=jump_attention",),
        ("model=learned_skip",),
        pytest.param(("model=learned_skip_gain",), marks=pytest.mark.slow),
        ("model=skip_transformer", "model.open_rate=0.5"),
    ],
    ids=" ".join,
)
def test_a_checkpoint_of_mid_epoch_resumes_to_the_same_weights(
    tones: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    cfg = tiny_config(tones, tmp_path, *words, EPOCHS)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    expected = weights(fit(cfg, keep))
    for step in (3, 6):
        resumed = fit(cfg, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.global_step == 8
        assert differing(expected, weights(resumed)) == []
