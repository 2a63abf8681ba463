"""Dense first, then decide: nothing is skipped in the first share of the steps, and a trained model teaches."""

from pathlib import Path

import pytest
import torch

from hopscotch.config.absent import refuse_absent_paths
from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.known import paths_in
from hopscotch.layers.gate import Gate
from hopscotch.layers.policy import JumpPolicy
from hopscotch.layers.stride import StrideGate
from hopscotch.restore import restore
from hopscotch.run import attempt
from hopscotch.training.teacher import Teacher
from tests.small_models import classifier
from tests.tiny import build, fit, make_batch, tiny_config, tiny_folder
from tests.trained import write_run

GATED = ("model.open_rate=0.5", "model.positions=none")
KINDS = {
    "skip_transformer": (),
    "learned_skip": GATED,
    "learned_skip_gain": (),
    "skip_transformer_gain": (),
    "skip_layer": (),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name.endswith("_gain") else name for name in KINDS],
)
def test_nothing_is_skipped_before_decisions_close(tones: Path, tmp_path: Path, name: str) -> None:
    words = ("compute.dense_share=0.5", "trainer.max_epochs=4", f"model={name}", *KINDS[name])
    task, data = build(tiny_config(tones, tmp_path, *words))
    step, seen = task.training_step, list[tuple[bool, float]]()

    def noted(batch, batch_idx):
        output = step(batch, batch_idx)
        trace = output["step"].output.trace
        seen.append((task.progress < 0.5, float(trace.fraction.min())))
        return output

    task.training_step = noted
    fit(tiny_config(tones, tmp_path, *words), built=(task, data))
    first, rest = ([fraction for is_first, fraction in seen if is_first is one] for one in (True, False))
    assert first == [1.0] * len(rest)
    assert len(rest) > 2
    assert min(rest) < 0.98


def test_what_decides_learns_nothing_before(tones: Path, tmp_path: Path) -> None:
    words = ("compute.dense_share=1", "compute.target=1", "trainer.max_epochs=2", "optimizer.weight_decay=0")
    for name in ("skip_layer", "learned_skip"):
        task, data = build(tiny_config(tones, tmp_path, *words, f"model={name}"))
        deciders = [part for part in task.model.modules() if isinstance(part, Gate | JumpPolicy | StrideGate)]
        before = [{key: value.clone() for key, value in part.state_dict().items()} for part in deciders]
        head = classifier(task.model).weight.detach().clone()
        fit(tiny_config(tones, tmp_path, *words, f"model={name}"), built=(task, data))
        assert len(deciders) >= 3
        for part, was in zip(deciders, before, strict=True):
            now = part.state_dict()
            assert [key for key in was if not torch.equal(now[key], was[key])] == ["measured_rate"] * isinstance(
                part, Gate
            )
            assert now.get("measured_rate", 1.0) == 1.0  # what calibration may open
        assert not torch.equal(classifier(task.model).weight, head)


def test_a_training_without_decisions_is_for_a_test_without_any(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compute\.target must be 1 with compute\.dense_share=1, .* got auto\."):
        build(tiny_config(tones, tmp_path, "model=skip_transformer", "compute.dense_share=1"))
    with pytest.warns(UserWarning, match=r"compute\.dense_share=0\.5 has no effect: dense decides nothing"):
        build(tiny_config(tones, tmp_path, "model=dense", "compute.dense_share=0.5"))


@pytest.fixture(scope="module")
def dense(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("dense"), tones, "dense")


def test_a_teacher_says_what_its_model_says_with_nothing_skipped(tones: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, tones, "skip_transformer")
    teacher, model, batch = Teacher(restore(run).model, 1.0), restore(run).model, make_batch(5)
    found = teacher(batch)
    assert torch.equal(found.trace.macs, found.trace.dense_macs)
    same = model(batch.waveform, batch.lengths, repeat=found.trace.decisions)
    torch.testing.assert_close(found.logits, same.logits)
    assert not torch.allclose(found.logits, model(batch.waveform, batch.lengths).logits)


def test_a_teacher_adds_its_distance_to_the_loss(dense: Path, tones: Path, tmp_path: Path) -> None:
    words = ("model=skip_transformer", "compute.weight=0", "compute.entropy_weight=0", "augment=none")
    losses = list[float]()
    for weight in (0.0, 2.0):
        task, data = build(tiny_config(tones, tmp_path, *words))
        task.teacher = Teacher(restore(dense).model, weight)
        step = task.training_step

        def noted(batch, batch_idx, step=step, task=task):
            output = step(batch, batch_idx)
            if task.global_step == 0:
                losses.append(output["loss"].item())
                teacher = restore(dense).model(batch.waveform, batch.lengths)
                losses.append(float(task.distance(output["step"].output, teacher)))
            return output

        task.training_step = noted
        fit(tiny_config(tones, tmp_path, *words), built=(task, data))
    without, distance, taught, same = losses
    assert distance == pytest.approx(same)
    assert distance > 0.01
    assert taught == pytest.approx(without + 2 * distance, rel=1e-4)


def test_the_recipe_starts_from_a_model_which_may_teach(dense: Path, tones: Path, tmp_path: Path) -> None:
    words = ("recipe=from_dense", f"init_from={dense}", "compute.teacher=${init_from}")
    cfg = tiny_config(tones, tmp_path, "model=skip_transformer", *words)
    assert cfg.compute.teacher == str(dense)
    assert compose(["recipe=from_dense", "model=skip_transformer"]).trainer.max_epochs == 4
    assert paths_in({"compute": dict(cfg.compute)})["compute.teacher"] == str(dense)
    refuse_absent_paths(cfg)
    with pytest.raises(ConfigError, match=r"init_from must be the folder of a run or a checkpoint, got .*<run>"):
        refuse_absent_paths(tiny_config(tones, tmp_path, "model=skip_transformer", "recipe=from_dense"))
    with pytest.raises(ConfigError, match=r"compute\.teacher must be a folder, got .*nowhere"):
        refuse_absent_paths(tiny_config(tones, tmp_path, f"compute.teacher={tmp_path / 'nowhere'}"))


def test_a_teacher_of_other_classes_is_refused(dense: Path, tones: Path, tmp_path: Path, capsys) -> None:
    (others := tmp_path / "others").mkdir()
    for folder in ("high", "low"):
        (others / folder).symlink_to(tones / folder)
    cfg = tiny_config(tones, tmp_path / "run", *tiny_folder(others), f"compute.teacher={dense}")
    assert attempt(cfg, tmp_path / "run", [], 0.0, is_job=False)["status"] == "failed"
    assert "compute.teacher must know the classes of the data in their order" in capsys.readouterr().err
