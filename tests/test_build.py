"""Every choice of conf/ makes objects that work, and a `_target_` that is not there is named."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from hopscotch.build import build_callbacks, build_data, build_loggers, build_model, build_trainer, make, make_trainer
from hopscotch.config.compose import CONF, compose
from hopscotch.data.datamodule import SPLITS
from hopscotch.frontend import LogMel
from hopscotch.layers.block import BlockSpec
from hopscotch.layers.gate import Gate
from hopscotch.layers.jump import SkipLayer
from hopscotch.models.jumps import JumpAttention, JumpStack
from hopscotch.models.stack import Stack
from hopscotch.models.strides import LearnedStack
from hopscotch.registry import without_cache
from tests.small_models import classifier
from tests.test_tasks import CASES, write_table
from tests.tiny import MODELS, build, skip_without_plugin, tiny_config, tiny_folder, write_tone
from tests.word_streams import words_in_noise

ELSEWHERE = {"trainer=ddp", "trainer=gpu", "trainer=fsdp"}  # need processes, or a GPU, or are refused: test_config.py
ELSEWHERE |= {"backbone=whisper", "frontend=whisper", "experiment=finetune_whisper"}  # need weights: test_whisper.py
ELSEWHERE |= {"recipe=from_dense"}  # needs a trained run: test_dense_first.py
CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for file in CONF.glob("*/*.yaml")
    if file.parent.name != "hydra" and f"{file.parent.name}={file.stem}" not in ELSEWHERE
)
TINY_MODEL = ("model.dim=16", "model.heads=2", "model.depth=3")
QUICK = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
)

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty:UserWarning")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten digits by two speakers in the layout of FSDD."""
    root = tmp_path_factory.mktemp("digits")
    for digit in range(10):
        for speaker, hz in (("george", 300), ("theo", 400)):
            for take in (0, 5, 10, 11):
                write_tone(
                    root / "recordings" / f"{digit}_{speaker}_{take}.wav", hz * (1 + 0.2 * digit), 0.15 + 0.01 * take
                )
    return root


TABLES = {  # of the sets that recipes are for: name, columns, and a row for each split
    "experiment=esc50": ("esc50.csv", "filename,category,fold,recording", "{file},{word},{split},{file}", "123"),
    "experiment=words20": ("words20.csv", "path,word,split,speaker", "{file},{word},{split},{split}", SPLITS),
}


def write_set(root: Path, table: str, columns: str, row: str, splits: Sequence[str]) -> Path:
    """Two words, one clip of each in every split."""
    rows = [columns]
    for place, word in enumerate(("low", "high")):
        for number, split in enumerate(splits):
            file = f"{word}_{split}.wav"
            write_tone(root / "audio" / file, 300 * (place + 1), 0.2 + 0.01 * number)
            rows.append(row.format(file=file, word=word, split=split))
    (root / table).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def overrides_for(choice: str, tones: Path, digits: Path, folder: Path) -> list[str]:
    """What a choice needs beside itself to be quick."""
    model = [] if choice.startswith("size=") else list(TINY_MODEL)
    if choice.startswith("data=synthetic") or "scenes" in choice:
        counts = ["data.num_train=20", "data.num_val=10", "data.num_test=10", f"data.cache_dir={folder}"]
        seconds = ["data.scene_seconds=5"] if "scenes" in choice else []
        return [choice, *counts, *seconds, *model, *QUICK]
    if choice in TABLES:
        return [choice, f"data.root={write_set(folder / 'set', *TABLES[choice])}", *model, *QUICK]
    if choice == "experiment=keywords":
        return [choice, *words_in_noise(folder)[1:], "data.train.seconds=null", *model, *QUICK]
    if choice == "data=fsdd" or choice.startswith("experiment="):
        speaker = ["data.test_speaker=theo"] if choice == "experiment=fsdd_speakers" else []
        return [choice, f"data.root={digits}", *speaker, *model, *QUICK]
    if choice in ("data=streams", "task=detect"):  # no class folder has events
        return ["task=detect", *words_in_noise(folder), *model, *QUICK]
    if choice == "task=regress":  # no class folder is a number
        table = write_table(folder / "numbers", CASES["regress"].label)
        return [choice, "data=table", f"data.table={table}", *model, *QUICK]
    less = {
        "gate=original": ["model.open_rate=null"],
        "debug=overfit": ["trainer.overfit_batches=1"],
        "logger=csv": ["callbacks=quiet"],
    }
    if choice.startswith("baseline=") and "stride" in choice:
        less[choice] = [f"model.encoder.strides=[1,2,{choice[-1]}]"]  # as deep as the tiny model
    return [choice, *tiny_folder(tones), *model, *QUICK, *less.get(choice, [])]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_builds_and_steps_once(
    tones: Path, digits: Path, tmp_path: Path, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_plugin(choice)
    monkeypatch.chdir(tmp_path)
    cfg = compose(overrides_for(choice, tones, digits, tmp_path))
    group, _, name = choice.partition("=")
    assert cfg.model.name == name or group != "model"  # named as it is chosen
    cfg.run_dir = str(tmp_path / "run")
    task, data = build(cfg)
    trainer = build_trainer(cfg, build_callbacks(cfg), build_loggers(cfg))
    before = classifier(task.model).weight.clone()
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 1
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert not torch.equal(before, classifier(task.model).weight)


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("model", MODELS)
def test_sizes_hold_what_they_promise(model: str, size: str) -> None:
    cfg = compose([f"model={model}", f"size={size}"])
    parameters = sum(parameter.numel() for parameter in build_model(cfg, num_classes=10).parameters())
    promised = {"tiny": 0.15e6, "small": 0.6e6}[size]
    assert 0.5 * promised < parameters < 2 * promised


def test_what_is_typed_may_name_any_class_or_function() -> None:
    """A run's folder may not: tests/attacks."""
    made = make(OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}))
    assert tuple(made.weight.shape) == (3, 2)
    assert make(OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2})) == 0.5


def test_a_study_that_is_not_there_is_said_to_be_of_a_checkout() -> None:
    with pytest.raises(
        ValueError, match=r"is not there: it is a study, and those are in a checkout of Hopscotch alone$"
    ):
        make(OmegaConf.create({"_target_": "scripts.studies.decision_value.Absent"}))


@pytest.mark.parametrize("target", ["hopscotch.frontend.LogMell", "hopscotch.fronted.LogMel", "no_such_package.Model"])
def test_a_target_that_is_not_there_is_named(target: str) -> None:
    with pytest.raises(ValueError, match=rf"^_target_ must name what can be imported; {target} is not there: "):
        make(OmegaConf.create({"_target_": target}))


def test_a_target_that_cannot_be_called_is_named() -> None:
    with pytest.raises(ValueError, match=r"^_target_ must name a class or function, got math\.pi, which is none\.$"):
        make(OmegaConf.create({"_target_": "math.pi"}))


def test_a_target_that_is_not_there_is_found_before_anything_is_made(tmp_path: Path) -> None:
    node = {"_target_": "os.mkdir", "path": str(tmp_path / "made"), "deep": [{"_target_": "os.no_such_function"}]}
    with pytest.raises(ValueError, match=r"os\.no_such_function is not there"):
        make(OmegaConf.create(node))
    assert list(tmp_path.iterdir()) == []


def test_what_a_nested_object_finds_wrong_is_said_as_it_says_it(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, tmp_path, "model=learned_skip", "model.dim=15")
    with pytest.raises(
        ValueError, match=r"^model\.encoder: dim must be a multiple of num_heads, got dim=15, num_heads=2\.$"
    ):
        build_model(cfg, num_classes=3)


def test_a_model_that_could_not_tell_the_order_of_sounds_is_refused(tmp_path: Path) -> None:
    build_model(tiny_config(tmp_path, tmp_path, "model=dense", "model.positions=none"), num_classes=3)
    for words in (["model=dense", "model.convolution_width=0"], ["model=skip_layer"]):
        cfg = tiny_config(tmp_path, tmp_path, *words, "model.positions=none")
        with pytest.raises(ValueError, match=r"^model\.positions=none needs layers that convolve .* got model="):
            build_model(cfg, num_classes=3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainer.precision=16-mixed",), r"^optimizer\.fused must be false under trainer\.precision=16-mixed"),
        (
            ("trainer.val_check_interval=3", "trainer.accumulate_grad_batches=2"),
            r"^trainer\.val_check_interval must be a multiple of trainer\.accumulate_grad_batches, 2, got 3",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trainer(tiny_config(tmp_path, tmp_path, "model=dense", *words), [], [])


@pytest.mark.parametrize("words", [("trainer=fsdp",), ("trainer.strategy=fsdp_cpu_offload",)])
def test_divided_weights_are_refused_with_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    cfg = tiny_config(tmp_path, tmp_path, *words)
    assert cfg.trainer.strategy.startswith("fsdp")
    with pytest.raises(
        ValueError, match=rf"got {cfg.trainer.strategy}: use trainer=ddp, on several GPUs or on the CPU"
    ):
        build_trainer(cfg, [], [])


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, accelerator: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator} needs a CUDA device"):
        build_trainer(compose([f"trainer.accelerator={accelerator}"]), [], [])


def test_an_object_passes_through_uncopied() -> None:
    callback = Callback()
    trainer = make_trainer(compose(["trainer=cpu"]).trainer, callbacks=[callback], logger=False)
    assert isinstance(trainer, Trainer)
    assert any(found is callback for found in vars(trainer)["callbacks"])


def test_the_trainer_s_switch_turns_the_progress_bar_off(tmp_path: Path) -> None:
    """Lightning by itself refuses the switch beside a progress bar among the callbacks."""
    cfg = tiny_config(tmp_path, tmp_path, "callbacks=default", "trainer.enable_progress_bar=false")
    names = [type(callback).__name__ for callback in build_callbacks(cfg)]
    assert "SkipProgressBar" not in names
    assert "BestAndLast" in names


def defaults_of(maker: Any, prefix: str = "") -> dict[str, Any]:
    """Keyword defaults of a constructor, those that start with `prefix`, without it."""
    parameters = inspect.signature(maker).parameters.values()
    return {
        parameter.name.removeprefix(prefix): parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty and parameter.name.startswith(prefix)
    }


def written(node: DictConfig) -> dict[str, Any]:
    """The values that a node states itself: no map, and nothing that another key sets."""
    plain = {
        str(key): node[key] for key in node if key != "_target_" and not OmegaConf.is_interpolation(node, str(key))
    }
    return {key: value for key, value in plain.items() if not OmegaConf.is_config(value)}


@pytest.mark.parametrize(
    ("choice", "maker", "by_variant"),
    [
        ("dense", Stack, set()),
        ("learned_skip", LearnedStack, set()),
        ("skip_layer", JumpStack, set()),
        ("skip_layer", SkipLayer, {"temperature_start", "temperature_end"}),  # the encoder moves the temperature
        ("jump_attention", JumpAttention, {"mini_hc", "expansion", "inner", "temperature_start", "temperature_end"}),
    ],
)
def test_defaults_in_python_are_those_of_the_configuration(choice: str, maker: Any, by_variant: set[str]) -> None:
    found, wanted = defaults_of(maker), written(compose([f"model={choice}"]).model.encoder)
    assert wanted.keys() - found.keys() <= by_variant
    assert {key: found[key] for key in wanted if key in found} == {key: wanted[key] for key in wanted if key in found}


@pytest.mark.parametrize(("prefix", "path"), [("jump_", "jump"), ("policy_", "policy")])
def test_defaults_of_the_jump_block_are_those_of_the_configuration(prefix: str, path: str) -> None:
    """But for one: by itself a block has no loss to be told, and learns through the model alone."""
    found, wanted = defaults_of(SkipLayer, prefix), written(compose(["model=skip_layer"]).model.encoder[path])
    if path == "policy":
        assert (found.pop("estimator"), wanted.pop("estimator")) == ("gumbel", "reinforce")
    assert found == wanted


def test_defaults_of_the_gate_are_those_of_the_configuration() -> None:
    """But for one: by itself a gate learns by gradient until it is told a loss, and a run always tells it."""
    found, wanted = defaults_of(Gate), written(compose().gate)
    assert (found.pop("threshold_by"), wanted.pop("threshold_by")) == ("gradient", "loss")
    assert {key: found[key] for key in wanted} == wanted


def test_defaults_of_a_block_are_those_of_the_configuration() -> None:
    wanted = compose().model.encoder.block
    assert defaults_of(BlockSpec) == {key: wanted[key] for key in wanted if key not in ("_target_", "dim", "num_heads")}


def test_defaults_of_the_front_end_are_those_of_the_configuration() -> None:
    assert defaults_of(LogMel) == written(compose().frontend)


def test_a_target_that_opens_more_tokens_than_training_does_is_warned_of(tones: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"compute\.target=0\.950 is more than the 0\.\d+ that model\.open_rate=0\.4"):
        build(tiny_config(tones, tmp_path, "model=dense", "model.open_rate=0.4", "compute.target=0.95"))


def test_a_source_is_told_what_the_label_of_a_clip_is_to_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose(["data=folder", "data.root=x"])
    assert build_data(cfg).labels == "one"
    monkeypatch.setattr("hopscotch.training.classify.ClassificationTask.labels", "several")
    assert build_data(cfg).labels == "several"


def test_a_stored_configuration_fetches_nothing_and_mixes_with_nothing() -> None:
    stored = {"data": {"fetch": True, "root": "x"}, "augment": {"noise": "/n", "waveform": None}, "seed": 0}
    ours = {"data": {"fetch": False, "root": "x"}, "augment": {"noise": None, "waveform": None}, "seed": 0}
    assert without_cache(stored) == ours
    assert without_cache({"seed": 0}) == {"seed": 0}
