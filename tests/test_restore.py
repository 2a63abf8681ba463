"""A model comes out of its run's folder, and whatever else a folder holds is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from hopscotch.build import build_model
from hopscotch.models.audio_model import Head
from hopscotch.models.heads import HEADS
from hopscotch.registry import PLACES, class_at
from hopscotch.restore import restore
from hopscotch.training.task import AudioTask


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(run: Path, **changes: Any) -> dict[str, Any]:
    """Change keys of the checkpoint; None takes them out."""
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = {**torch.load(path, weights_only=True), **changes}
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)
    return checkpoint


def test_a_checkpoint_knows_its_classes_and_how_long_clips_were(trained: Path) -> None:
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["classes"] == ["high", "low", "middle"]
    assert checkpoint["clip_seconds"]["longest"] == pytest.approx(0.24)  # of tests/tiny.py's tones
    assert 0.12 < checkpoint["clip_seconds"]["mean"] < 0.24


def test_the_model_has_the_weights_of_the_checkpoint_and_needs_no_data(copy: Path) -> None:
    cfg = OmegaConf.load(copy / "config.yaml")
    cfg.data.root = str(copy / "gone")
    OmegaConf.save(cfg, copy / "config.yaml")
    restored = restore(copy)
    kept = torch.load(copy / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not restored.model.training
    assert restored.classes == ["high", "low", "middle"]
    for name, value in restored.model.state_dict().items():
        assert torch.equal(value, kept[f"model.{name}"]), name


def test_an_older_checkpoint_takes_its_classes_from_the_summary(copy: Path) -> None:
    edit(copy, classes=None, clip_seconds=None)
    with pytest.raises(ValueError, match="must hold the names of its classes"):
        restore(copy)
    data = {"classes": ["c", "b", "a"], "seconds": {"train": 6.0}, "clips": {"train": 4}}
    (copy / "summary.json").write_text(json.dumps({"data": data}))
    restored = restore(copy)
    assert restored.classes == ["c", "b", "a"]
    assert (restored.mean_seconds, restored.longest_seconds) == (1.5, None)


def test_another_checkpoint_may_be_named(copy: Path) -> None:
    other = copy / "other.ckpt"
    shutil.move(copy / "checkpoints" / "best.ckpt", other)
    assert restore(copy, other).classes == ["high", "low", "middle"]
    with pytest.raises(ValueError, match=r"got .*run: no checkpoints.best\.ckpt there yet"):
        restore(copy)
    with pytest.raises(ValueError, match=r"got .*none\.ckpt, which is not there"):
        restore(copy, copy / "none.ckpt")


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be the folder of a run, got .*: no config\.yaml there"):
        restore(tmp_path)


def test_a_checkpoint_of_another_model_is_named(copy: Path) -> None:
    weights = edit(copy)["state_dict"]
    edit(copy, state_dict={name: value for name, value in weights.items() if "attention" not in name})
    with pytest.raises(ValueError, match=r"run's own model, got .*best\.ckpt: it lacks encoder"):
        restore(copy)


def test_tasks_of_ours_have_the_head_that_is_made_without_them() -> None:
    for target in PLACES["task"].names:
        kind = class_at("task", target, "config.yaml")
        made = kind.make_head(8, 3, pooling="statistics", dropout=0.0)  # pyright: ignore[reportAttributeAccessIssue]
        assert type(made) is HEADS[target]
    made, head = (make(8, 3, pooling="statistics", dropout=0.5) for make in (AudioTask.make_head, Head))
    assert type(made) is Head
    assert repr(made) == repr(head)


def test_every_registered_class_is_where_its_name_says() -> None:
    for path, place in PLACES.items():
        for name in place.names:
            assert class_at(path, name, "config.yaml").__name__ == name.rpartition(".")[2]


def test_a_restored_model_is_that_of_training(copy: Path) -> None:
    restored = restore(copy)
    trained = build_model(OmegaConf.load(copy / "config.yaml"), 3)  # pyright: ignore[reportArgumentType]
    assert repr(restored.model) == repr(trained)


def test_labels_that_do_not_match_are_named(copy: Path) -> None:
    edit(copy, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"must have a name for each of its 3 classes, got a, b\."):
        restore(copy)
