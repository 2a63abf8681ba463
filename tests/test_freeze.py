"""Frozen parts do not move by a bit, neither by weight decay nor by thresholds, and are released when it was said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from hopscotch.build import build_callbacks
from hopscotch.training.freeze import Freeze
from tests.tiny import TINY_MODEL, TINY_RUN, Command, build, fit, tiny_config, tiny_folder, weights


class Modes(Callback):
    """Keeps, for each epoch, whether parts were in training mode and had a gradient."""

    def __init__(self, *parts: str) -> None:
        self.parts, self.seen = parts, list[tuple[int, dict[str, tuple[bool, bool]]]]()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        found = {name: pl_module.model.get_submodule(name) for name in self.parts}
        state = {
            name: (part.training, any(one.grad is not None for one in part.parameters()))
            for name, part in found.items()
        }
        self.seen.append((trainer.current_epoch, state))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "radam"])
def test_frozen_weights_stay_to_the_bit(tones: Path, tmp_path: Path, optimizer: str) -> None:
    words = ("model=dense", "trainer.freeze=[stem,encoder.blocks.0]", f"optimizer={optimizer}")
    cfg = tiny_config(tones, tmp_path, *words, "optimizer.weight_decay=0.5", "trainer.max_epochs=2")
    built, modes = build(cfg), Modes("stem", "encoder.blocks.0", "encoder.blocks.1")
    before = {f"model.{name}": value.clone() for name, value in built[0].model.named_parameters()}
    after = weights(fit(cfg, *build_callbacks(cfg), modes, built=built))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if not name.startswith(("model.stem.", "model.encoder.blocks.0."))}
    states = {"stem": (False, False), "encoder.blocks.0": (False, False), "encoder.blocks.1": (True, True)}
    assert {epoch for epoch, _ in modes.seen} == {0, 1}  # also after a validation
    assert all(state == states for _, state in modes.seen)


def test_a_frozen_gate_keeps_its_threshold(tones: Path, tmp_path: Path) -> None:
    cfg = tiny_config(tones, tmp_path, "model=skip_layer")
    found = weights(fit(cfg, Freeze(["encoder.block.layers.1"], every=None)))
    updates = [int(value) for name, value in found.items() if name.endswith("gate.num_updates")]
    assert updates == [4, 0, 4]


def test_what_is_frozen_is_released_from_the_end_of_the_list(tones: Path, tmp_path: Path) -> None:
    words = ("model=skip_transformer", "trainer.freeze=[stem,encoder.blocks.0]", "trainer.unfreeze_every=2")
    cfg = tiny_config(tones, tmp_path, *words, "trainer.max_epochs=6", "trainer.limit_train_batches=1")
    modes = Modes("stem", "encoder.block.layers.0")
    fit(cfg, *build_callbacks(cfg), modes)
    stem, layer = ([state[name] for _, state in modes.seen] for name in modes.parts)
    held, free = (False, False), (True, True)
    assert stem == [held] * 4 + [free] * 2
    assert layer == [held] * 2 + [free] * 4


def test_a_part_within_a_frozen_part_stays_frozen(tones: Path, tmp_path: Path) -> None:
    words = ("model=dense", "trainer.freeze=[encoder,encoder.blocks.0]", "trainer.unfreeze_every=1")
    cfg = tiny_config(tones, tmp_path, *words, "trainer.max_epochs=3", "trainer.limit_train_batches=1")
    modes = Modes("encoder", "encoder.blocks.0")
    fit(cfg, *build_callbacks(cfg), modes)
    assert [state["encoder.blocks.0"] for _, state in modes.seen] == [(False, False)] * 2 + [(True, True)]


def test_a_name_that_the_model_has_not_is_refused_before_any_work(tones: Path, command: Command) -> None:
    typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=dense", "hydra.run.dir=run"]
    for freeze, error in {
        "[stem,encoder.block.0]": "got encoder.block.0. Did you mean encoder.blocks.0?",
        "[stem,encoder,head]": "trainer.freeze must leave something to train, got stem, encoder, head.",
        "stem": "trainer.freeze must be a list, each item text, got stem.",
    }.items():
        ended = command(*typed, f"trainer.freeze={freeze}")
        assert (ended.code, error in ended.err, "Traceback" in ended.err) == (1, True, False), ended.err
    assert not Path("run").exists()


def test_a_release_of_nothing_warns(tones: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"trainer.unfreeze_every=2 has no effect: trainer.freeze is empty"):
        build_callbacks(tiny_config(tones, tmp_path, "model=dense", "trainer.unfreeze_every=2"))
