"""Every choice of conf/ composes; what is wrong is refused with its key, the rule, the value and the nearest name."""

import re
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

from hopscotch.config import schema as config_schema
from hopscotch.config.check import check_trained, refuse_missing
from hopscotch.config.compose import CONF, Loader, compose, file_name, register
from hopscotch.config.errors import RENAMED, ConfigError
from hopscotch.config.typed import quoted
from hopscotch.train import STUDIES
from scripts.studies.runner import compose_sweep


def choices_in(conf: Path) -> Iterator[str]:
    for folder in sorted(conf.iterdir()):
        if folder.is_dir() and folder.name != "hydra":
            yield from (f"{folder.name}={file.stem}" for file in sorted(folder.glob("*.yaml")))


CHOICES = list(choices_in(CONF))
EXPERIMENTS = list(choices_in(STUDIES))


def choices_of(group: str) -> list[str]:
    return sorted(choice.partition("=")[2] for choice in CHOICES if choice.startswith(f"{group}="))


def write(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def refusal(*overrides: str, config_dir: Path | None = None, more: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, config_dir=config_dir, more=more)
    return str(caught.value)


@pytest.mark.parametrize(
    "choice", ["trainer=ddp", "trainer=gpu", "trainer=fsdp"]
)  # test_build.py composes and builds all others
def test_a_choice_that_needs_other_hardware_composes(choice: str) -> None:
    assert only_data_is_missing(compose([choice]))


@pytest.mark.parametrize("study", EXPERIMENTS)
def test_a_study_and_its_first_job_compose(study: str) -> None:
    jobs = compose_sweep([study], more=STUDIES).hydra.sweeper.params
    assert len(jobs) >= 2
    first = (f"{key}={str(values).partition(',')[0]}" for key, values in jobs.items())
    assert only_data_is_missing(compose([study, *first], more=STUDIES))


def test_a_study_is_found_only_where_its_folder_is_given() -> None:
    name = EXPERIMENTS[0].partition("=")[2]
    assert f"experiment={name}: experiment must be one of" in refusal(EXPERIMENTS[0])


def only_data_is_missing(cfg: DictConfig) -> bool:
    return {key.partition(".")[0] for key in OmegaConf.missing_keys(cfg)} <= {"data"}


def test_every_key_is_explained_where_it_is_defined_and_every_file_says_what_it_is_for() -> None:
    keys: dict[str, bool] = {}
    for file in (file for folder in (CONF, STUDIES) for file in folder.rglob("*.yaml") if "help" not in file.parts):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[1 if "@package" in lines[0] else 0].startswith("# "), file
        for above, line in zip(["", *lines], lines, strict=False):
            if found := re.match(r" {,4}(\w+): \S", line):  # deeper in are the values of a sweep
                has_comment = " # " in line or above.strip().startswith("#")
                keys[found[1]] = keys.get(found[1], False) or has_comment or "${" in line
    assert [key for key, has_comment in keys.items() if not has_comment] == []


def test_no_schema_holds_a_default_value() -> None:
    things = [*vars(config_schema).values(), *config_schema.SCHEMAS.values()]
    schemas = [thing for thing in things if isinstance(thing, type) and is_dataclass(thing)]
    assert config_schema.Config in schemas
    values = [
        f"{schema.__name__}.{field.name}"
        for schema in schemas
        for field in fields(schema)
        if field.default != MISSING and not (field.default is NO_DEFAULT and is_dataclass(field.type))
    ]
    assert values == ["Node.backbone", "Node.callbacks", "Node.logger"]  # empty where the group is left out


def test_an_override_gets_the_type_of_its_key() -> None:
    cfg = compose(["compute.weight=1", "trainer.limit_train_batches=3"])
    assert isinstance(cfg.compute.weight, float)
    assert isinstance(cfg.trainer.limit_train_batches, int)


def test_the_size_sets_the_width_of_the_encoder() -> None:
    cfg = compose(["model=skip_layer", "size=small"])
    assert cfg.model.encoder.block.dim == cfg.model.dim == cfg.size.token_dim
    assert compose(["model=dense", "model.dim=48"]).model.encoder.block.dim == 48


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("modle=dense", "modle=dense: there is no key modle. Did you mean model?"),
        ("+modle=dense", "modle=dense: there is no key modle. Did you mean model?"),
        ("model=learned_skp", "Did you mean learned_skip?"),
        ("model=5", f"model=5: model must be one of {', '.join(choices_of('model'))}."),
        ("experiment=fsd", f"experiment must be one of {', '.join(choices_of('experiment'))}. Did you mean fsdd?"),
        (
            "trainer.max_epoch=3",
            "trainer.max_epoch=3: there is no key trainer.max_epoch. Did you mean trainer.max_epochs?",
        ),
        (
            "+trainer.max_epoch=3",
            "trainer.max_epoch=3: there is no key trainer.max_epoch. Did you mean trainer.max_epochs?",
        ),
        ("++trainer.max_epoch=3", "Did you mean trainer.max_epochs?"),
        ("max_epochs=3", "max_epochs=3: there is no key max_epochs. Did you mean trainer.max_epochs?"),
        ("trainer.max_epochs=x", "trainer.max_epochs must be a whole number, at least 1, or -1 for no limit, got x."),
        ("trainer.max_epochs=0", "trainer.max_epochs must be at least 1, or -1 for no limit, got 0."),
        ("trainer.devices=none", "trainer.devices must be auto, a number of devices (-1: all), or a list"),
        ("trainer.limit_val_batches=1.5", "trainer.limit_val_batches must be a number of batches of at least 0, or a"),
        (
            "trainer.profiler=simpl",
            "trainer.profiler must be one of simple, advanced, pytorch, got simpl. Did you mean simple?",
        ),
        ("seed=-1", "seed must be at least 0, got -1."),
        ("compute.target=1.2", "compute.target must be auto, or a fraction above 0 and up to 1, got 1.2."),
        ("compute.target=full", "compute.target must be auto, or a fraction above 0 and up to 1, got full."),
        (
            "compute.budget=[]",
            "compute.budget must be null, a fraction above 0 and up to 1, or a list of some, got [].",
        ),
        (
            "model=jump_attention model.encoder.attention_depth=0",
            "model.encoder.attention_depth must be at least 1, got 0.",
        ),
        (
            "model=skip_attention model.encoder.strides=4",
            "model.encoder.strides must be null, or a list of",
        ),
        ("model=skip_layer model.encoder.policy=null", "model.encoder.policy must be a map, got null."),
        ("trainer.val_check_interval=0", "trainer.val_check_interval must be a number of batches of at least 1"),
        ("compute=0.6", "compute must be a map, got 0.6."),
        ("model.encoder=null", "model.encoder must be a map, got null."),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0."),
        (
            "data=fsdd data.split=oficial",
            "data.split must be one of official, speaker, got oficial. Did you mean official?",
        ),
        (
            "augment.waveform.speeds=[fast]",
            "augment.waveform.speeds must be a list, each item a number, at least one, within 0.5 and 2, got",
        ),
        ("augment.waveform.speed=[1]", "Did you mean augment.waveform.speeds?"),
        ("optimizer.lr=0", "optimizer.lr must be above 0, got 0"),
        ("lr=0.1", "Did you mean optimizer.lr?"),
        ("model.encoder.max_strid=4", "Did you mean model.encoder.max_stride?"),
        ("+model.encoder.max_strid=4", "Did you mean model.encoder.max_stride?"),
        ("model.encoder.max_stride=x", "model.encoder.max_stride must be a whole number like its default, 4, got x."),
        (
            "model.encoder.max_stride=2.5",
            "model.encoder.max_stride must be a whole number like its default, 4, got 2.5.",
        ),
        ("model.encoder.max_stride=0", "model.encoder.max_stride must be at least 1, got 0."),
        ("model.encoder.gate_input=lyer", "must be one of layer, encoder, first, got lyer. Did you mean layer?"),
        (
            "model=skip_layer model.encoder.mini_hc=2",
            "model.encoder.mini_hc must be true or false like its default, True",
        ),
        ("model=skip_layer model.encoder.jump.mix=conves", "Did you mean convex?"),
        ("callbacks.early_stopping.patience=x", "callbacks.early_stopping.patience must be a whole number like its"),
        ("+callbacks.early_stopping.patiense=3", "Did you mean callbacks.early_stopping.patience?"),
        ("model.dim=${size.dmi}", "model.dim=${size.dmi}: Interpolation key 'size.dmi' not found"),
        ("run_dir=here", "run_dir must not be given, got here: the folder is hydra.run.dir=<folder>"),
        ("hydra.run.dri=here", "hydra.run.dri=here: there is no key hydra.run.dri."),
        (
            "trainer.max_epochs=[",
            """Put the value in double quotes, and all of it in single ones: 'trainer.max_epochs="..."'.""",
        ),
        ("epochs=3", "there is no key epochs. Did you mean trainer.max_epochs?"),
        ("model=skip", "Did you mean skip_attention or skip_layer or skip_layer_plain?"),
        ("hydra.run.dri=x", "Did you mean hydra.run.dir?"),
        ("hydra/launcher=foo", "must be one of basic, joblib, processes, ray, submitit_local, submitit_slurm."),
        (
            "model.encoder.policy.estimator=gumbel",
            "there is no key model.encoder.policy.estimator. It is a key of model=jump_attention,",
        ),
    ],
)
def test_what_is_wrong_is_named(overrides: str, message: str) -> None:
    assert message in refusal(*overrides.split())


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("data.batch_size=0", "at least 1"),
        ("data.num_workers=-1", "at least 0"),
        ("data.cache_gib=-1.0", "at least 0"),
        ("data.sample_rate=0", "at least 1000"),
        ("data.num_val=0", "at least 1"),
        ("data.corpus_seed=-1", "at least 0"),
        ("augment.waveform.speeds=[]", "at least one, within 0.5 and 2"),
        ("augment.waveform.speeds=[3.0]", "at least one, within 0.5 and 2"),
        ("augment.waveform.silence_probability=2.0", "between 0 and 1"),
        ("augment.waveform.silence_seconds=-1.0", "at least 0"),
        ("augment.waveform.gain_db=-1.0", "at least 0"),
        ("augment.waveform.noise_probability=1.5", "between 0 and 1"),
        ("augment.waveform.noise_snr_db=[9.0,1.0]", "two numbers, the lower one first"),
        ("augment.waveform.impulse_probability=1.5", "between 0 and 1"),
        ("augment.spectrogram.num_time_masks=-1", "at least 0"),
        ("augment.spectrogram.time_mask_share=1.0", "at least 0 and below 1"),
        ("augment.spectrogram.num_mel_masks=-1", "at least 0"),
        ("augment.spectrogram.mel_mask_share=2.0", "at least 0 and below 1"),
        ("augment.spectrogram.tilt=-0.1", "at least 0"),
        ("frontend.top_db=0.0", "above 0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(override: str, rule: str) -> None:
    key, _, value = override.partition("=")
    shown = value.replace(",", ", ")
    assert refusal(override) == f"{key} must be {rule}, got {shown}."


def with_model(key: str) -> list[str]:
    return ["model=skip_layer"] if key.startswith("model.encoder.policy") else []


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_that_is_typed_stops_with_the_new_one(old: str, new: str) -> None:
    message = refusal(old if "=" in old else f"{old}=0.5", *with_model(old), more=STUDIES)
    assert message.endswith(f" {old} is now {new}.")
    assert "\n" not in message


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in RENAMED.items() if "=" not in old])
def test_an_old_name_that_is_added_stops_with_the_new_one(old: str, new: str) -> None:
    message = refusal(f"+{old}=0.5", more=STUDIES)
    parent = old.rpartition(".")[0]  # named instead of the key if it has a new name itself
    known = {f"{old} is now {new}.", f"{parent} is now {RENAMED.get(parent)}."}
    assert any(message.endswith(f" {words}") for words in known), message


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in RENAMED.items() if "." in old])
def test_an_old_name_in_a_stored_configuration_is_named_with_the_new_one(old: str, new: str) -> None:
    cfg = compose(with_model(old))
    key, _, value = old.partition("=")
    OmegaConf.update(cfg, key, value or 0.5, force_add=True)
    with pytest.raises(ConfigError, match="is now") as caught:
        check_trained(cfg, cfg.copy(), "run/config.yaml")
    message = str(caught.value)
    assert message.startswith("run/config.yaml was written by an older version of Hopscotch: ")
    assert message.endswith(f" {old} is now {new}.")


def test_every_new_name_exists() -> None:
    cfgs = [compose(["callbacks=decision_value", model]) for model in ("model=learned_skip", "model=skip_layer")]
    cfgs.append(compose(["data=folder"]))
    for new in RENAMED.values():
        name, _, choice = new.partition("=")
        files = [folder / name / f"{choice}.yaml" for folder in (CONF, STUDIES)]
        is_key = any(OmegaConf.select(cfg, name, default=None) is not None for cfg in cfgs)
        assert is_key or any(file.is_file() for file in files) or (CONF / name).is_dir(), new


def test_null_takes_anything_and_turns_a_map_off() -> None:
    cfg = compose(["model=skip_attention", "model.encoder.strides=[3,2,1]", "callbacks.early_stopping=null"])
    assert list(cfg.model.encoder.strides) == [3, 2, 1]
    assert cfg.callbacks.early_stopping is None


def test_a_value_that_is_referred_to_elsewhere_may_change_its_type() -> None:
    cfg = compose(["compute.target=0.6"])  # auto in YAML, and named by the dashboard
    assert cfg.callbacks.dashboard.hparams.target == cfg.compute.target == 0.6


def test_a_group_can_be_left_out() -> None:
    assert compose(["~logger"]).logger == {}


def test_a_key_without_default_has_to_be_given() -> None:
    cfg = compose(["data=fsdd"])
    with pytest.raises(ConfigError, match=r"data\.root must be given, it has no default: add data\.root=<value>"):
        refuse_missing(cfg)
    refuse_missing(compose(["data=fsdd", "data.root=there"]))


def test_debug_has_the_last_word_over_an_experiment(tmp_path: Path) -> None:
    write(tmp_path, "experiment/long.yaml", "# @package _global_\ntrainer:\n  max_epochs: 500\n")
    assert compose(["experiment=long"], config_dir=tmp_path).trainer.max_epochs == 500
    assert compose(["experiment=long", "debug=default"], config_dir=tmp_path).trainer.max_epochs == 1


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    for epochs in (500, 50):
        write(tmp_path, "experiment/long.yaml", f"# @package _global_\ntrainer:\n  max_epochs: {epochs}\n")
        cfg = compose(["experiment=long"], config_dir=tmp_path)
        assert cfg.trainer.max_epochs == epochs
        cfg.trainer.max_epochs = 1  # what was read stays as it is
        assert compose(["experiment=long"], config_dir=tmp_path).trainer.max_epochs == epochs


def test_what_is_composed_to_see_whether_it_is_a_sweep_is_what_runs(tmp_path: Path) -> None:
    write(tmp_path, "experiment/open.yaml", "# @package _global_\ndefaults:\n  - /more: ???\n")
    write(tmp_path, "more/one.yaml", "seed: 1\n")
    register()
    words = ["model=skip_layer", "seed=3", "hydra.verbose=true", "~logger"]
    as_run = [*words, "hydra.mode=RUN"]

    def loaded(loader: Loader, words: list[str], mode: RunMode, *, validates: bool = True) -> DictConfig:
        return loader.load_configuration("config", words, mode, validate_sweep_overrides=validates)

    once, twice = (Loader(create_config_search_path(str(CONF)), tmp_path) for _ in range(2))
    asked = loaded(once, words, RunMode.MULTIRUN, validates=False)
    assert asked.hydra.mode is None
    run, alone = loaded(once, as_run, RunMode.RUN), loaded(twice, as_run, RunMode.RUN)
    assert run is asked
    assert OmegaConf.to_container(run) == OmegaConf.to_container(alone)
    loaded(once, ["seed=1,2"], RunMode.MULTIRUN, validates=False)
    with pytest.raises(ConfigError, match="Ambiguous value for argument 'seed=1,2'"):
        loaded(once, ["seed=1,2", "hydra.mode=RUN"], RunMode.RUN)
    loaded(once, ["experiment=open"], RunMode.MULTIRUN, validates=False)
    with pytest.raises(ConfigError, match="You must specify 'more'"):
        loaded(once, ["experiment=open", "hydra.mode=RUN"], RunMode.RUN)


def test_an_experiment_cannot_invent_a_key(tmp_path: Path) -> None:
    write(tmp_path, "experiment/typo.yaml", "# @package _global_\nmodel:\n  encoder:\n    max_strides: 4\n")
    assert "Did you mean model.encoder.max_stride?" in refusal("experiment=typo", config_dir=tmp_path)


OWN_MODEL = """
defaults:
  - parts/audio_model@_here_
  - _self_
name: own
encoder:
  _target_: hopscotch.models.own.Own
  window: 5 # positions
  shares: [0.5, 0.25]
  nested:
    kind: hard
"""


def test_a_new_model_costs_one_yaml_and_no_schema(tmp_path: Path) -> None:
    write(tmp_path, "model/own.yaml", OWN_MODEL)
    cfg = compose(["model=own", "model.encoder.window=7", "model.encoder.nested.kind=soft"], config_dir=tmp_path)
    assert cfg.model.encoder.window == 7
    assert cfg.model.encoder.block.dim == cfg.size.dim


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.windw=7", "Did you mean model.encoder.window?"),
        ("+model.encoder.windw=7", "Did you mean model.encoder.window?"),
        ("model.encoder.window=wide", "model.encoder.window must be a whole number like its default, 5, got wide."),
        ("model.encoder.window=null", "model.encoder.window must be a whole number like its default, 5, got null."),
        ("model.encoder.shares=0.5", "model.encoder.shares must be a list like its default, [0.5, 0.25], got 0.5."),
        ("model.encoder.shares=[a]", "model.encoder.shares must be a list of values such as 0.5, got ['a']."),
        ("model.encoder.nested=hard", "model.encoder.nested must be a map, got hard."),
        ("model.encoder.nested.kind=1", "model.encoder.nested.kind must be text like its default, hard, got 1."),
    ],
)
def test_a_new_model_is_held_to_its_own_yaml(tmp_path: Path, override: str, message: str) -> None:
    write(tmp_path, "model/own.yaml", OWN_MODEL)
    assert message in refusal("model=own", override, config_dir=tmp_path)


def test_a_new_data_source_is_held_to_its_own_yaml(tmp_path: Path) -> None:
    write(tmp_path, "data/tape.yaml", "_target_: tape.Tape\nreel: ???\nsample_rate: 8000\nbatch_size: 4\nspeed: 1.0\n")
    cfg = compose(["data=tape", "data.reel=a", "data.speed=2"], config_dir=tmp_path)
    assert isinstance(cfg, DictConfig)
    assert (cfg.frontend.sample_rate, cfg.data.reel) == (8000, "a")
    assert "Did you mean data.speed?" in refusal("data=tape", "+data.sped=2", config_dir=tmp_path)
    for override, message in [
        ("data.speed=x", "data.speed must be a number like its default, 1.0"),
        ("data.batch_size=0", "data.batch_size must be at least 1, got 0."),  # as of every source
    ]:
        assert message in refusal("data=tape", override, config_dir=tmp_path)


def test_folder_names_need_no_quotes() -> None:
    assert file_name(["model=dense", "data.root=/my clips/x", "+a.b=[1,2]", "optimizer.lr=1e-3"]) == (
        "model-dense_b-1-2_lr-1e-3"
    )
    assert len(file_name([f"key{i}=value" for i in range(50)])) == 100


def test_a_value_in_quotes_comes_through_hydras_grammar_as_it_was() -> None:
    for value in ("/a/plain", "/é , (x) = {y} ' \" # [z] & w", "C:\\a\\"):
        override = OverridesParser.create().parse_override(f"hydra.run.dir={quoted(value)}")
        assert override.value() == value


@pytest.mark.parametrize("override", ["++trainer.foo=1", "model.foo.bar=1", "data.manifest=x"])
def test_a_key_that_is_near_no_other_gets_no_guess(override: str) -> None:
    assert "Did you mean" not in refusal(override)
