"""A model that starts from a trained one has its weights, says at first what it says, and refuses what does not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hopscotch import cli
from hopscotch.build import build_model
from hopscotch.restore import restore
from hopscotch.shared import export
from hopscotch.start import Start, start_from
from hopscotch.training.freeze import Freeze
from hopscotch.training.task import AudioTask
from tests.small_models import classifier
from tests.tiny import (
    TINY_MODEL,
    TINY_RUN,
    Command,
    build,
    differing,
    fit,
    make_batch,
    tiny_config,
    tiny_folder,
    weights,
    write_tone,
    write_tones,
)
from tests.trained import write_run

BEST = Path("checkpoints") / "best.ckpt"


@pytest.fixture(scope="module")
def dense(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained dense model."""
    return write_run(tmp_path_factory.mktemp("dense"), tones, "dense")


def started(cfg: DictConfig, given: Path) -> tuple[AudioTask, Any, Start]:
    task, data = build(cfg)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    return task, data, start_from(given, task.model, data.classes, config)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / BEST, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (("model=dense",), set()),
        (
            ("model=skip_transformer",),
            {f"encoder.block.{part}" for part in ("policy", "work_mem", "memory_gate", "jump_weights", "convex")},
        ),
        (("model=learned_skip",), {f"encoder.blocks.{layer}.attention.gate" for layer in range(3)}),
        (("model=learned_skip_gain",), {"encoder.blocks.1.attention.gate", "encoder.blocks.2.attention.gate"}),
        (
            ("model=learned_skip", "model.stem_layers=1", "model.open_rate=0.5"),
            {"encoder.gate", *(f"encoder.encoder.blocks.{layer}.attention.gate" for layer in range(2))},
        ),
        (("model=dense", "model.depth=4"), {"encoder.blocks.3"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_weights_come_by_name_and_the_rest_is_new(
    dense: Path, tones: Path, tmp_path: Path, words: tuple[str, ...], new: set[str]
) -> None:
    task, _, start = started(tiny_config(tones, tmp_path, *words), dense)
    assert set(start.new) == new
    assert start.left == []
    assert start.loaded == len([name for name in tensors(dense) if name.startswith("model.")])
    drawn = build(tiny_config(tones, tmp_path, *words))[0].model.state_dict()
    kept = {name for name, value in task.model.state_dict().items() if torch.equal(value, drawn[name])}
    assert not {"stem.convolutions.0.weight", "head.linear.weight"} & kept


@pytest.mark.parametrize("model", ["skip_transformer", "learned_skip"])
def test_at_first_a_deciding_model_says_what_the_dense_one_did(
    dense: Path, tones: Path, tmp_path: Path, model: str
) -> None:
    task, _, _ = started(tiny_config(tones, tmp_path, f"model={model}"), dense)
    task.eval()
    batch, was = make_batch(6), restore(dense).model
    said, trace = (output := task.model(batch.waveform, batch.lengths)).logits, output.trace
    torch.testing.assert_close(said, was(batch.waveform, batch.lengths).logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(trace.macs, trace.dense_macs)
    # In training, too, most decisions are those of the dense model.
    task.train()
    torch.manual_seed(0)
    many = make_batch(60)
    strides = task.model(many.waveform, many.lengths).trace.strides
    assert 0.5 < (strides == 1).double().mean() < 0.9


def test_a_new_gate_of_strides_is_drawn_at_one_as_often_as_a_policy_goes_on(
    dense: Path, tones: Path, tmp_path: Path
) -> None:
    task, _, _ = started(tiny_config(tones, tmp_path, "model=learned_skip"), dense)
    gate: Any = task.model.encoder.get_submodule("blocks.0.attention.gate")
    assert gate.net[-1].bias.softmax(dim=0)[0].item() == pytest.approx(0.6)


@pytest.mark.parametrize("words", [("model=dense",), ("model=learned_skip", "model.open_rate=0.5")], ids=" ".join)
def test_an_adaptive_model_hands_its_layers_on(tones: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    run = write_run(tmp_path, tones, "skip_transformer")
    task, _, start = started(tiny_config(tones, tmp_path, *words), run)
    assert {f"encoder.block.{part}" for part in ("policy", "convex")} <= set(start.left)
    assert task.model.encoder.decides == bool(start.new)
    prefix = "encoder.encoder" if "model.open_rate=0.5" in words else "encoder"
    own = task.model.state_dict()[f"{prefix}.blocks.2.ffn.0.weight"]
    assert torch.equal(own, tensors(run)["model.encoder.block.layers.2.ffn.0.weight"])


def test_the_bias_of_decisions_comes_along_with_what_decides_and_not_without(tones: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, tones, "skip_transformer")
    checkpoint = torch.load(run / BEST, weights_only=True)
    checkpoint["state_dict"]["model.decision_bias"].fill_(2.0)
    torch.save(checkpoint, run / BEST)
    same, _, _ = started(tiny_config(tones, tmp_path, "model=skip_transformer"), run)
    other, _, _ = started(tiny_config(tones, tmp_path, "model=learned_skip"), run)
    assert (same.model.decision_bias.item(), other.model.decision_bias.item()) == (2.0, 0.0)


def test_other_classes_get_a_new_head_and_the_run_says_from_what_it_started(
    dense: Path, tmp_path: Path, command: Command
) -> None:
    root = write_tones(tmp_path / "more")
    for i in range(7):
        write_tone(root / "very high" / f"{i}.wav", 3000.0, 0.2)
    words = [*tiny_folder(root), *TINY_MODEL, *TINY_RUN, "model=dense", f"init_from={dense}", "hydra.run.dir=run"]
    ended = command(*words, "optimizer.lr=1e-9")
    assert ended.code == 0, ended.err
    line = next(line for line in ended.out.splitlines() if line.startswith("init_from"))
    num = len([name for name in tensors(dense) if name.startswith("model.")]) - 4
    assert line == f"init_from: {dense / BEST}, epoch 1: loaded {num} tensors, new: head, left: head"
    told = json.loads(Path("run/summary.json").read_text())["init_from"]
    assert told == {
        "path": str(dense / BEST),
        "epoch": 0,
        "loaded": num,
        "new": ["head"],
        "left": ["head"],
        "key": "init_from",
    }
    was, now = tensors(dense), tensors(Path("run"))
    assert now["model.head.linear.weight"].shape == (4, 32)
    for name in ("frontend.offset", "frontend.scale"):  # not measured again, though these clips are others
        assert torch.equal(now[f"model.{name}"], was[f"model.{name}"])
    torch.testing.assert_close(now["model.stem.convolutions.1.weight"], was["model.stem.convolutions.1.weight"])


def test_with_other_classes_every_exit_gets_a_new_head(tones: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, tones, "early_exit")
    other = build_model(tiny_config(tones, tmp_path, "model=early_exit"), num_classes=5)
    found = start_from(run, other, ["a", "b", "c", "d", "e"], {})
    assert {"head", "early"} <= {name.partition(".")[0] for name in found.new}
    theirs = tensors(run)
    for name, tensor in other.state_dict().items():
        if not name.startswith(("head.", "early.")):
            assert torch.equal(tensor, theirs[f"model.{name}"]), name


def test_as_many_other_classes_are_other_classes(dense: Path, tones: Path, tmp_path: Path) -> None:
    task, data = build(tiny_config(tones, tmp_path, "model=dense"))
    before = classifier(task.model).weight.clone()
    assert start_from(dense, task.model, ["a", "b", "c"], {}).new == ["head"]
    assert torch.equal(classifier(task.model).weight, before)
    assert start_from(dense / BEST, task.model, data.classes, {}).new == []
    assert not torch.equal(classifier(task.model).weight, before)


FITS = "init_from must be a model of the same parts and widths, got .*best.ckpt: it "
THAT = " must be that of the model that init_from names, "


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("model=skip_layer", FITS + r"lacks all of encoder, and has encoder\."),
        (
            "model=dense model.dim=8",
            FITS + "differs in the shape of "
            r"stem.convolutions.0.weight \(\(16, 40, 5\) there, \(8, 40, 5\) in the model\)",
        ),
        ("model=dense model.convolution_width=3", r"blocks.0.around.convolution.weight \(\(16, 1, 1, 7\) there, "),
        ("model=dense model.heads=4", "model.heads" + THAT + r"2 in .*config.yaml, got 4\."),
        ("model=dense frontend.top_db=20", "frontend.top_db" + THAT + r"30.0 in .*config.yaml, got 20"),
        ("model=dense model.pooling=maxima", "model.pooling" + THAT + r"statistics in .*, got maxima"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(dense: Path, tones: Path, tmp_path: Path, words: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        started(tiny_config(tones, tmp_path, *words.split()), dense)


def test_a_head_of_other_classes_may_pool_otherwise(dense: Path, tones: Path, tmp_path: Path) -> None:
    task, _ = build(cfg := tiny_config(tones, tmp_path, "model=dense", "model.pooling=maxima"))
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    assert start_from(dense, task.model, ["a", "b", "c"], config).new == ["head"]


def test_what_is_no_model_is_refused_in_one_line(dense: Path, tones: Path, command: Command, tmp_path: Path) -> None:
    typed = [*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "model=dense"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.ckpt").write_text("no checkpoint")
    for given, error in {
        "none": f"init_from must be the folder of a run or a checkpoint, got {tmp_path / 'none'}: nothing is there.",
        "empty": f"init_from must be a checkpoint file, got {tmp_path / 'empty' / BEST}, which is not there.",
        "words.ckpt": f"init_from must be a checkpoint that train.py wrote, got {tmp_path / 'words.ckpt'}, which",
    }.items():
        ended = command(*typed, f"init_from={given}")
        assert (ended.code, error in ended.err, "Traceback" in ended.err) == (1, True, False), ended.err
    ended = command(*typed, f"init_from={dense}", f"ckpt_path={dense / BEST}")
    assert (ended.code, ended.err) == (
        1,
        f"init_from must be null with ckpt_path, got {dense}: a run that goes on brings its weights along.\n",
    )
    assert not Path("outputs").exists()


def test_latest_is_the_newest_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("hopscotch.train.main", given.append)
    monkeypatch.setattr(cli, "outputs", lambda: tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.yaml").write_text("seed: 0\n")
    cli.train(["model=dense", "init_from=latest", "data.root=latest"])
    assert given == [["model=dense", f"init_from={tmp_path / 'one'}", "data.root=latest"]]


@pytest.mark.filterwarnings(
    "ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning",  # the one that kept every step
)
def test_a_started_run_resumes_to_the_same_weights(dense: Path, tones: Path, tmp_path: Path) -> None:
    """Frozen at first, and with rates by layer: four steps to an epoch."""
    words = ("model=skip_transformer", "trainer.max_epochs=2", "optimizer.layer_decay=0.8")
    cfg = tiny_config(tones, tmp_path, *words)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    expected = weights(fit(cfg, Freeze(["stem"], every=1), keep, built=started(cfg, dense)[:2]))
    for step in (3, 6):
        resumed = fit(cfg, Freeze(["stem"], every=1), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert resumed.global_step == 8
        assert differing(expected, weights(resumed)) == []


def test_a_model_that_is_sent_to_others_does_not_tell_where_it_started(
    dense: Path, tones: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_run(run, tones, "dense")
    stored = (run / "config.yaml").read_text().replace("init_from: null", f"init_from: {dense}")
    assert str(dense) in stored
    (run / "config.yaml").write_text(stored)
    assert str(dense) not in (export(run, tmp_path / "sent") / "config.json").read_text()
