"""Evaluate a trained model again: on its own test clips or others, in noise, and at other compute budgets."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from hopscotch.above import Dearer, warn_of
from hopscotch.against import Against, Measured, Static, compared, print_against, write_against
from hopscotch.baselines import FOLDER as AGAINST
from hopscotch.baselines import baselines_of, drop_of, statics_in, train_baselines
from hopscotch.build import build_data, build_model, build_task, make_trainer
from hopscotch.conditions import CLEAN, Condition, passes, refitted, settings, time_test
from hopscotch.config.absent import refuse_no_folder
from hopscotch.config.check import refuse_missing
from hopscotch.config.compose import compose, register
from hopscotch.config.errors import flat, nearest, plain_config
from hopscotch.config.schema import Trainer as TrainerKeys
from hopscotch.config.schema import is_number
from hopscotch.config.typed import absolute, with_yaml_path
from hopscotch.controls import Controls, controls_of
from hopscotch.data.clips import some
from hopscotch.data.datamodule import BAD_AUDIO, AudioDataModule
from hopscotch.data.leaks import warn_of_recordings
from hopscotch.data.recordings import MAX_IMPULSE_SECONDS, Recordings
from hopscotch.detection import in_words
from hopscotch.detection_figures import as_facts, detection_facts, write_detection
from hopscotch.evaluation import print_evaluation, write_budgets, write_evaluation
from hopscotch.files import UNFINISHED, refuse_links
from hopscotch.intervals import Units
from hopscotch.known import refuse_unknown
from hopscotch.latency import Case, in_turn
from hopscotch.metrics import measure
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.cascade import Cascade
from hopscotch.models.exits import Ladder
from hopscotch.plain import as_written, shown
from hopscotch.registry import trusted
from hopscotch.report.clips import SplitClips, clip_rows
from hopscotch.report.collect import Evaluation
from hopscotch.report.paint import use_letters_of
from hopscotch.report.run_folder import EVALUATION, SUMMARY, RunFolder, config_of
from hopscotch.restore import checkpoint_of, hold_to_rules, no_larger_than, stored_config, trained_classes
from hopscotch.training.checkpoint import read_checkpoint, take_weights
from hopscotch.training.classify import ClassificationTask
from hopscotch.training.task import AudioTask

MIXED = ("noise", "impulse_responses")  # keys of folders of recordings
BASELINES = "baselines"  # of against=
OWN_KEYS = ("run", "ckpt", "out", "snr", *MIXED, "trust", "against")  # of this command; all other keys are the run's
# Of the run's data, also with other clips, unless they are typed.
KEPT = ("sample_rate", "batch_size", "num_workers", "cache_gib", "max_seconds", "on_bad", "max_bad", "silent_ok")


class LoadedRun(NamedTuple):
    cfg: DictConfig
    task: AudioTask  # in evaluation mode
    data: AudioDataModule  # validation and test clips


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Parse run=R ckpt=C snr=[20,10] noise=N out=F data=folder data.root=D ... into the arguments of `evaluate`."""
    own: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key in OWN_KEYS and equals:
            if key in own and key != "trust":
                raise ValueError(f"{key} must be given once, got {key}={own[key]} and {word}.")
            own[key] = value
    if not own.get("run"):
        raise ValueError("run must be given: run=outputs/<run>; --help has examples.")
    paths = {key: Path(own[key]).expanduser() for key in ("run", "ckpt", "out") if key in own}
    paths |= {key: Path(absolute(own[key])) for key in MIXED if key in own}
    for key in MIXED:
        refuse_no_folder(key, str(paths[key]) if key in paths else None)
    if "noise" in own and "snr" not in own:
        raise ValueError(f"noise needs levels in dB beside it, such as snr=[20,10,0], got noise={own['noise']} alone.")
    beside = own.get("against")
    if beside not in (None, BASELINES) and not statics_in(Path(beside).expanduser()):
        raise ValueError(
            f"against must be {BASELINES} or a run with static models that have finished, in <run>/{AGAINST}/, got "
            f"{beside}: `hopscotch compare` takes other runs."
        )
    overrides = [word for word in words if word.partition("=")[0] not in own]
    found = {**paths, "overrides": overrides, "snr": levels(own.get("snr", "[]")), "trust": trusted(words)}
    return found | {"against": beside}


def levels(typed: str) -> list[float]:
    try:
        given = OmegaConf.from_dotlist([f"snr={typed}"]).snr
    except YAMLError:
        given = None
    listed: list[Any] = list(given) if isinstance(given, ListConfig) else [given]
    numbers = [float(level) for level in listed if is_number(level) and math.isfinite(level)]
    if len(numbers) < len(listed):
        raise ValueError(f"snr must be a level in dB or a list of them, such as snr=[20,10,0], got {typed}.")
    return numbers


def load(
    run: Path,
    overrides: Sequence[str] = (),
    ckpt: Path | None = None,
    trust: Sequence[str] = (),
    bad_audio: Path | None = None,
) -> LoadedRun:
    """Load a finished run with its model and data; `bad_audio` is the table that names files that are left out.

    `overrides` change single keys of the run's own configuration: data.root=F, compute.budget=[0.8,1.0].
    data=<name of conf/data> takes other clips of the same classes: that file's keys replace the run's own data.
    """
    as_trained = stored_config(run, trust)
    if not any(word.startswith("data=") for word in overrides):
        refuse_unknown({"data": plain_config(as_trained)["data"]}, config_of(run), overrides)
    weights = checkpoint_of(run, ckpt)
    register()
    cfg = configuration(run, as_trained, overrides)
    checkpoint = read_checkpoint(weights)  # fails before clips are looked for
    with as_written(run):
        data = build_data(cfg)
    known = checkpoint.get("classes")
    if classes := trained_classes(run) or (known if changes_data(overrides) else None):
        data.name_classes(classes)
    data.bad_audio = bad_audio
    data.setup("validate")
    data.setup("test")
    if known is not None and known != list(data.classes):
        raise ValueError(
            f"{shown(weights)} must know the classes of the data in their order, {shown(some(data.classes))}, "
            f"got {shown(some(known))}."
        )
    with as_written(run), no_larger_than(weights):
        task = build_task(cfg, build_model(cfg, data.num_classes), data)
    take_weights(task, checkpoint["state_dict"], weights)
    return LoadedRun(cfg, task.eval(), data)


def configuration(run: Path, as_trained: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of the run with the overrides, checked."""
    defaults, file = as_trained.copy(), run / "config.yaml"
    rest = list(overrides)
    if of_data := changes_data(overrides):
        defaults.compute.target = "auto"  # the target of training does not depend on the lengths of these clips
    if any(word.startswith("data=") for word in of_data):
        rest = [word for word in overrides if word not in of_data]
        other, typed = compose(of_data), {word.partition("=")[0] for word in of_data}  # as for training
        for key in KEPT:
            if key in as_trained.data and key in other.data and f"data.{key}" not in typed:
                other.data[key] = as_trained.data[key]
        refuse_missing(other)
        defaults.data = OmegaConf.to_container(other.data, resolve=True)
    cfg = defaults.copy()
    OmegaConf.set_struct(cfg, True)
    for override in rest:
        key, equals, _ = override.partition("=")
        try:
            if not equals:
                raise ValueError
            cfg.merge_with_dotlist([with_yaml_path(override)])
        except (OmegaConfBaseException, YAMLError, ValueError):
            known = nearest(key, [*flat(cfg), *OWN_KEYS])
            raise ValueError(f"An override must be key=value with a key of {file}, got {override!r}.{known}") from None
    hold_to_rules(cfg, defaults, file)
    if cfg.data.sample_rate != as_trained.data.sample_rate:
        raise ValueError(
            f"data.sample_rate must stay that of the model, {as_trained.data.sample_rate}, got {cfg.data.sample_rate}: "
            "files of any rate are resampled to it."
        )
    return cfg


def changes_data(overrides: Sequence[str]) -> list[str]:
    """Select the overrides that choose other clips."""
    return [word for word in overrides if word.startswith(("data=", "data.", "data@"))]


def evaluate(
    run: Path,
    overrides: Sequence[str] = (),
    ckpt: Path | None = None,
    snr: Sequence[float] = (),
    out: Path | None = None,
    trust: Sequence[str] = (),
    noise: Path | None = None,
    impulse_responses: Path | None = None,
    *,
    against: str | None = None,
) -> Path:
    """Test under every condition, print and write the results, and return their folder.

    The first condition is the clips as they are, at the first budget. `noise` is a folder of recordings for the levels
    `snr`, `impulse_responses` one of rooms, a further condition. `against` names a run whose static models it is
    compared with, or "baselines", its own, which are trained first.
    """
    folder = folder_of(run, out, against=against is not None)
    cfg, task, data = load(run, overrides, ckpt, trust, folder / BAD_AUDIO)
    mixed = mixed_with(data, snr, noise, impulse_responses)
    if against and not isinstance(task, ClassificationTask):
        raise ValueError(f"against={against} needs one label per clip, task=classify, got {cfg.task._target_}.")
    trainer = tester(cfg, run)
    all_passes = passes(task, data, trainer, budgets(cfg.compute.budget, task.model), *mixed)
    first = next(all_passes)
    metrics = measure(first.evaluation, task.steps["test"], data.classes) if first.evaluation.has_classes else None
    detected = detection_facts(first.evaluation, data)
    write_detection(folder, task, data, detected)
    kept = [(one.condition, Measured.of(one) if against else None, one.dearer) for one in chain([first], all_passes)]
    conditions = [one for one, *_ in kept]
    times, controls = time_test(task, data, trainer), controlled(task, data, first.evaluation)
    sure = first.evaluation.interval(first.condition.primary[1], data.clips["test"])
    use_letters_of(data.classes)
    facts = {
        "run": str(run),
        "checkpoint": str(checkpoint_of(run, ckpt)),
        "overrides": list(overrides),
        "data": data.summary(),
        "noise": noise and str(noise),
        "impulse_responses": impulse_responses and str(impulse_responses),
        "test": first.logged,  # these two are as in summary.json
        "interval": sure and asdict(sure),  # of the primary metric
        **as_facts(detected),
        "compute": first.evaluation.compute,
        "exits": controls and controls.as_json(),
        "time_fraction": times.fraction if task.model.decides else None,  # at the budget of training
    }
    clips = clip_rows(first.evaluation, SplitClips(data, "test"))
    write_evaluation(folder, facts=facts, metrics=metrics, classes=data.classes, clips=clips, conditions=conditions)
    is_own = out is None and ckpt is None and not changes_data(overrides)  # what the run's page may show as its own
    write_budgets(conditions, run / "report" if is_own else folder)
    counts, told = {"num_clips": len(clips), "num_bad": data.num_bad("test")}, in_words(detected)
    warnings = [*warn_of([dearer for *_, dearer in kept if dearer]), *other_clips(run, data, overrides)]
    print_evaluation(metrics, conditions, controls, **counts, told=told, sure=sure, times=times, warnings=warnings)
    if against:
        found = stand_against(run, against, LoadedRun(cfg, task, data), trainer, kept, mixed, overrides, trust)
        print_against(found)
        write_against(found, folder, run if is_own else None)
    return folder


def folder_of(run: Path, out: Path | None, *, against: bool = False) -> Path:
    """Return the folder of an evaluation; nothing is written through a link in that of the run."""
    folder = run / EVALUATION if out is None else out
    if out is None:
        refuse_links(run, [str(EVALUATION), *(f"report/budgets.{end}" for end in ("csv", "md", "png"))])
        refuse_links(run, [SUMMARY, SUMMARY + UNFINISHED] if against else [])
    (folder / BAD_AUDIO).unlink(missing_ok=True)  # of an evaluation before this one
    return folder


class Mixed(NamedTuple):
    """Say what test clips are mixed with."""

    snr_db: Sequence[float]
    noise: Recordings | None
    rooms: Recordings | None


def mixed_with(data: AudioDataModule, snr: Sequence[float], noise: Path | None, rooms: Path | None) -> Mixed:
    """Find the recordings in the folders, and warn of clips that are among them."""
    rate, longest = data.sample_rate, MAX_IMPULSE_SECONDS
    recorded = None if noise is None else Recordings("noise", str(noise), rate)
    heard = None if rooms is None else Recordings("impulse_responses", str(rooms), rate, longest=longest)
    warn_of_recordings(data.clips, [one for one in (recorded, heard) if one is not None])
    return Mixed(snr, recorded, heard)


def other_clips(run: Path, data: AudioDataModule, overrides: Sequence[str]) -> list[str]:
    """Warn of test clips that are not those of the training run, where no others are typed."""
    was = RunFolder(run).data
    if not was or was.get("fingerprint") == data.fingerprint() or changes_data(overrides):
        return []
    return ["the test set differs from the one of the training run (clips added, removed or changed)."]


def stand_against(
    run: Path,
    against: str,
    loaded: LoadedRun,
    trainer: Trainer,
    kept: Sequence[tuple[Condition, Measured | None, Dearer | None]],
    mixed: Mixed,
    overrides: Sequence[str],
    trust: Sequence[str],
) -> Against:
    """Test static models as a run was tested, its own trained first; exits also with thresholds fitted in noise."""
    cfg, task, data = loaded
    beside = run if against == BASELINES else Path(against).expanduser()
    if against == BASELINES:
        share = (RunFolder(run).summary.get("compute") or {}).get("fraction", 1.0)
        named = baselines_of(task.model, cfg, drop_of(task.model, share))
        train_baselines(run, named, trust, [word for word in overrides if word.startswith("trainer.")])
    found, loaded_ones = list[Static](), list[LoadedRun]()
    for name, one, core_seconds in statics_of(run, beside, loaded, overrides, trust):
        if [clip.name for clip in one.data.clips["test"]] != [clip.name for clip in data.clips["test"]]:
            raise ValueError(
                f"{shown(beside / AGAINST / name)} must be tested on the clips of {shown(run)}: it has others."
            )
        tested = [Measured.of(each) for each in passes(one.task, one.data, trainer, [None], *mixed)]
        found.append(Static(name, core_seconds, tested))
        loaded_ones.append(one)
    there = []
    if isinstance(task.model, Ladder):
        shares = {one.condition: one.fraction for one, *_ in reversed(kept)}  # of the first budget
        there = [Measured.of(one) for one in refitted(task, data, trainer, mixed.snr_db, mixed.noise, shares)]
    own, units = [one for _, one, _ in kept if one is not None], Units.of([clip.shared for clip in data.clips["test"]])
    heard = {one.name: one for one in settings(data.sample_rate, *mixed)}
    cases = [Case(task.model, one.bias, data, heard[one.condition]) for one in own]
    cases += [
        Case(one.task.model, static.passes[0].bias, one.data, heard[CLEAN])
        for one, static in zip(loaded_ones, found, strict=True)
    ]
    with Console().status("Timing all models"):
        times = in_turn(cases, trainer)
    own = [one._replace(milliseconds=its) for one, its in zip(own, times, strict=False)]
    found = [one._replace(milliseconds=its) for one, its in zip(found, times[len(own) :], strict=True)]
    return compared(own, found, units, core_seconds_of(run), there, task.model.name)


def statics_of(
    run: Path, beside: Path, loaded: LoadedRun, overrides: Sequence[str], trust: Sequence[str]
) -> Iterator[tuple[str, LoadedRun, float | None]]:
    """Load static models by name, with their core-seconds of training; a cascade's own are its stages."""
    cfg, task, data = loaded
    if isinstance(task.model, Cascade) and beside == run:
        alone = OmegaConf.merge(cfg, {"compute": {"target": "auto"}})
        assert isinstance(alone, DictConfig)
        for number, model in enumerate(task.model.models):
            stage = LoadedRun(alone, build_task(alone, model, data).eval(), data)
            yield f"stage_{number}", stage, core_seconds_of(run, number)
    words = [word for word in overrides if not word.startswith(("compute.", "model."))]
    for place in statics_in(beside):
        yield place.name, load(place, words, trust=trust), core_seconds_of(place)


def core_seconds_of(run: Path, stage: int | None = None) -> float | None:
    """Return the core-seconds of a run's training, or of a stage of a cascade; None where its summary does not tell."""
    with as_written(run):
        seconds = RunFolder(run).summary.get("seconds") or {}
        found = (
            seconds.get("fit_cores") if stage is None else dict(enumerate(seconds.get("stage_cores") or [])).get(stage)
        )
    return found if isinstance(found, float) else None


def controlled(task: AudioTask, data: AudioDataModule, evaluation: Evaluation) -> Controls | None:
    """Compare a model that has exits with its controls at the first budget; None for any other model."""
    exits = evaluation.trace.decisions.exits
    if not isinstance(task.model, Ladder) or exits is None:
        return None
    units = Units.of([data.clips["test"][index].shared for index in evaluation.indices.tolist()])
    last = task.model.exits.number - 1
    return controls_of(task.model, list(data.test_dataloader()), (exits + last).numpy(), units)


def budgets(given: Any, model: AudioModel) -> list[float | None]:
    """Return compute.budget as a list; None stands for the budget that the model was trained for.

    Several are compared with that one, which comes last.
    """
    if given is None:
        return [None]
    if not model.decides:
        raise ValueError(f"compute.budget has no meaning for model={model.name}, which makes no decisions. Remove it.")
    listed: list[float | None] = [float(budget) for budget in ([given] if isinstance(given, int | float) else given)]
    return [*listed, None] if len(listed) > 1 else listed


def tester(cfg: DictConfig, run: Path) -> Trainer:
    """Make a trainer with the precision of training that tests on one device and writes nothing."""
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={cfg.trainer.accelerator}, with which the run was trained, needs a CUDA device: "
            "add trainer.accelerator=cpu."
        )
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "enable_progress_bar": False, "profiler": None}
    known = {field.name: cfg.trainer[field.name] for field in fields(TrainerKeys)}  # none that was added
    node = DictConfig({**known, **alone})
    return make_trainer(node, callbacks=[], logger=False, enable_checkpointing=False, default_root_dir=str(run))
