"""Declare what every key of the configuration may hold: its type, its closed choices and simple ranges.

No value stands here: defaults live in conf/, once. A node finds its schema by its place (`Config` and the nodes
inside it) or by its `_target_` (`SCHEMAS`). A node without a schema, such as the encoder of a model or a data source of
your own, is compared with its own YAML file instead, see `hopscotch.config.check`.

A rule stands in one place. The classes of data, augmentation and front end are built from a configuration only, so
their ranges stand here, where no library is loaded yet; rules that join several values stand in the class. Layers and
models are used without a configuration too and check their numbers themselves.
"""

from collections.abc import Callable
from dataclasses import field, is_dataclass, make_dataclass
from typing import Any, NamedTuple

from omegaconf import MISSING


class Rule(NamedTuple):
    """A claim about a value, and its words after "must be"."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def is_number(value: Any) -> bool:
    """Tell whether a value is an int or a float; true and false are neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def one_of(*choices: str) -> Rule:
    """Make the rule of a closed choice."""
    return Rule("one of " + ", ".join(choices), lambda value: value in choices, choices)


def at_least(low: int | float) -> Rule:
    """Make the rule of a lower limit that is allowed itself."""
    return Rule(f"at least {low}", lambda value: value >= low)


ONE, ZERO = at_least(1), at_least(0)
SECONDS = Rule("auto, or a number above 0", lambda v: v == "auto" or (is_number(v) and v > 0))
LIMIT = Rule("at least 1, or -1 for no limit", lambda value: value == -1 or value >= 1)
RATE = at_least(1000)  # Hz
ABOVE_ZERO = Rule("above 0", lambda value: value > 0)
SHARE = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
PART = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
TARGET = Rule("auto, or a fraction above 0 and up to 1", lambda v: v == "auto" or (is_number(v) and 0 < v <= 1))
BUDGETS = Rule(
    "null, a fraction above 0 and up to 1, or a list of some",
    lambda v: v != [] and all(is_number(b) and 0 < b <= 1 for b in (v if isinstance(v, list) else [v])),
)
BATCHES = Rule(
    "a number of batches of at least 0, or a fraction from 0.0 to 1.0",
    lambda value: value >= 0 and (isinstance(value, int) or value <= 1),
)
SOME_BATCHES = Rule(
    "a number of batches of at least 1, or a fraction above 0.0 and up to 1.0",
    lambda value: value > 0 and (isinstance(value, int) or value <= 1),
)
WEIGHTS = Rule("balanced, null, or a map of classes to weights", lambda v: v == "balanced" or isinstance(v, dict))
SPEEDS = Rule("at least one, within 0.5 and 2", lambda value: len(value) > 0 and all(0.5 <= v <= 2 for v in value))
TWO_MOMENTS = Rule("two numbers, each at least 0 and below 1", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v))
LOW_HIGH = Rule("two numbers, the lower one first", lambda value: len(value) == 2 and value[0] <= value[1])
CHANNELS = Rule("null, or numbers of at least 1", lambda value: value != [] and all(one >= 1 for one in value))
DEVICES = Rule(
    "auto, a number of devices (-1: all), or a list of their indices",
    lambda v: v == "auto" or isinstance(v, list) or (isinstance(v, int) and (v == -1 or v >= 1)),
)
DETERMINISTIC = Rule("true, false or warn", lambda value: value in (True, False, "warn"))
FAST_DEV_RUN = Rule("true, false or a number of batches of at least 0", lambda v: isinstance(v, bool | int) and v >= 0)


def node(*bases: type, **keys: Any) -> type:
    """Make the schema of a node from `bases` and these keys.

    A key is a type, a pair of type and rule, the schema of a node below, or `dict` for a group that may be left out.
    Keys have no default here; an optional type accepts None, too.
    """
    fields: list[tuple[str, Any, Any]] = []
    for key, kind in keys.items():
        if kind is dict or is_dataclass(kind):
            factory: Any = kind
            fields.append((key, dict[str, Any] if kind is dict else kind, field(default_factory=factory)))
            continue
        kind, rule = kind if isinstance(kind, tuple) else (kind, None)
        fields.append((key, kind, field(default=MISSING, metadata={} if rule is None else {"rule": rule})))
    return make_dataclass("Node", fields, bases=bases)


Object = node(_target_=str)  # a node that becomes an object
Compute = node(
    target=(Any, TARGET),
    level=(float, SHARE),
    weight=(float, ZERO),
    entropy_weight=(float, ZERO),
    dense_weight=(float, ZERO),
    dense_share=(float, SHARE),
    teacher=str | None,
    teacher_weight=(float, ZERO),
    warmup=(float, SHARE),
    budget=(Any, BUDGETS),
)
Shape = node(name=str, dim=(int, ONE), heads=(int, ONE), depth=(int, ONE), ffn_ratio=(float, ABOVE_ZERO))
Gate = node(
    num_keys=(int, ONE),
    hidden_ratio=(float, ABOVE_ZERO),
    rule=(str, one_of("target", "sign", "proportional", "off")),
    open_rate=(float, SHARE),
    rate_floor=(float, SHARE),
    rate_ceiling=(float, SHARE),
    detach=bool,
    training_mode=(str, one_of("full", "packed")),
    threshold_by=(str, one_of("loss", "gradient")),
)
Model = node(
    Shape,
    Object,
    dropout=(float, PART),
    convolution_width=(int, Rule("0, or an odd number of positions", lambda v: v == 0 or (v > 0 and v % 2 == 1))),
    backbone=(str | None, one_of("whisper")),
    stem_stride=(int, ONE),
    stem_channels=(list[int] | None, CHANNELS),
    stem_layers=(int, ZERO),
    positions=(str, one_of("sinusoidal", "convolutional", "none")),
    pooling=(str, one_of("statistics", "maxima", "all")),
    residual_init_scale=(float, ZERO),
    open_rate=(float | None, SHARE),
    stage=dict[str, Any] | None,
    exits=dict[str, Any] | None,
    widths=dict[str, Any] | None,
    stages=Any,
    encoder=dict[str, Any],  # free: one class and one YAML make a new model
)
Trainer = node(  # the arguments of Lightning's Trainer, and those of `ADDED`
    Object,
    max_epochs=(int, LIMIT),
    max_steps=(int, LIMIT),
    max_time=str | None,
    accelerator=(str, one_of("auto", "cpu", "gpu", "cuda", "mps")),
    devices=(Any, DEVICES),
    num_nodes=(int, ONE),
    strategy=str,
    precision=(str, one_of("32-true", "bf16-mixed", "16-mixed", "64-true")),
    deterministic=(Any, DETERMINISTIC),
    gradient_clip_val=(float | None, ZERO),
    accumulate_grad_batches=(int, ONE),
    limit_train_batches=(int | float, BATCHES),
    limit_val_batches=(int | float, BATCHES),
    limit_test_batches=(int | float, SOME_BATCHES),
    overfit_batches=(int | float, BATCHES),
    val_check_interval=(int | float, SOME_BATCHES),
    check_val_every_n_epoch=(int | None, ONE),
    num_sanity_val_steps=(int, at_least(-1)),
    log_every_n_steps=(int, ONE),
    fast_dev_run=(Any, FAST_DEV_RUN),
    detect_anomaly=bool,
    profiler=(str | None, one_of("simple", "advanced", "pytorch")),
    enable_progress_bar=bool,
    enable_model_summary=bool,
    use_distributed_sampler=bool,
    compile=bool,
    freeze=list[str],
    unfreeze_every=(int | None, ONE),
    nonfinite_patience=(int, ONE),
)
Config = node(  # the root: what `python train.py --cfg job` prints
    seed=(int, ZERO),
    resume=str | None,
    resume_anyway=bool,
    ckpt_path=str | None,
    init_from=str | None,
    run_dir=str,
    backbone=dict,
    compute=Compute,
    data=Any,
    augment=dict[str, Any],
    frontend=Any,
    size=node(Shape, token_dim=(int, ONE), plain_dim=(int, ONE)),  # a width for each kind of model
    gate=Gate,
    model=Model,
    task=Any,
    optimizer=Any,
    scheduler=Any,
    trainer=Trainer,
    callbacks=dict,
    logger=dict,
)
Source = node(  # what every data source has; the rules hold for sources without a schema, too
    Object,
    sample_rate=(int, RATE),
    batch_size=(int, ONE),
    num_workers=(int, ZERO),
    timeout=(float, ZERO),
    cache_gib=(float, ZERO),
    max_seconds=(float | None, ABOVE_ZERO),
    batch_seconds=(Any, SECONDS),
    balance=(str | None, one_of("classes")),
)
Corpus = node(
    Source, num_train=(int, ONE), num_val=(int, ONE), num_test=(int, ONE), corpus_seed=(int, ZERO), cache_dir=str | None
)
NOT_EMPTY = Rule("null, or a list of at least one", lambda value: len(value) > 0)
FOLD = Rule("a fold: its number or name", lambda value: isinstance(value, int | str))
Files = node(  # what every source of audio files has
    Source,
    root=str,
    on_bad=(str, one_of("raise", "skip")),
    max_bad=(float, SHARE),
    silent_ok=bool,
    disk_cache_gib=(float, ZERO),
    cache_dir=str | None,
    group_by=str | None,
    folds=(int | None, at_least(3)),
    negatives=list[str],
    negatives_name=str,
    fold=(Any, FOLD),
    val_fold=(Any, FOLD),
)
Splitting = node(Files, val_fraction=(float, PART), test_fraction=(float, PART))
MANIFEST = Rule(
    "a file, or a map of files with the keys train, val and test", lambda value: isinstance(value, str | dict)
)
COLUMN_KEYS = ("path", "label", "split", "fold", "group", "start", "end")
SCHEMAS: dict[str, type] = {
    "hopscotch.data.synthetic.source.SyntheticWords": Corpus,
    "hopscotch.data.synthetic.source.SyntheticScenes": node(
        Corpus,
        scene_seconds=(float, at_least(5)),  # five words of the slowest speaker take 3.7 s
        confusable=bool,
    ),
    "hopscotch.data.folder.Folder": Splitting,
    "hopscotch.data.manifest.Manifest": node(Splitting, root=str | None, manifest=(Any, MANIFEST)),
    "hopscotch.data.table.Table": node(
        Splitting,
        root=str | None,
        table=str,
        label_separator=str,
        columns=node(**dict.fromkeys(COLUMN_KEYS, str | None)),
    ),
    "hopscotch.data.noise.Noise": Splitting,
    "hopscotch.data.streams.Streams": node(
        Source,
        seconds=(float, ABOVE_ZERO),
        num_train=(int, ONE),
        num_val=(int, ONE),
        num_test=(int, ONE),
        corpus_seed=(int, ZERO),
        keywords=(list[str] | None, NOT_EMPTY),
        distractors=bool,
        events_per_minute=(float, ZERO),
        distractors_per_minute=(float, ZERO),
        snr_db=(list[float], LOW_HIGH),
        gain_db=(float, ZERO),
        train=node(
            seconds=(float | None, ABOVE_ZERO),
            events_per_minute=(float | None, ZERO),
            distractors_per_minute=(float | None, ZERO),
        ),
        clips=Any,
        background=Any,
    ),
    "hopscotch.data.event_files.EventFiles": node(
        Splitting,
        root=str | None,
        annotations=(Any, MANIFEST),
        keywords=(list[str] | None, NOT_EMPTY),
        segment_seconds=(float, ONE),
    ),
    "hopscotch.data.hugging_face.HuggingFace": node(Splitting, audio_column=str, label_column=str),
    "hopscotch.data.speech_commands.SpeechCommands": node(
        Files, words=(str, one_of("all", "12")), fetch=bool, version=(str, one_of("v1", "v2"))
    ),
    "hopscotch.data.esc50.Esc50": Files,
    "hopscotch.data.words20.Words20": Files,
    "hopscotch.data.fsdd.Fsdd": node(Files, split=(str, one_of("official", "speaker")), test_speaker=str | None),
    "hopscotch.data.augment.WaveformAugment": node(
        Object,
        sample_rate=(int, RATE),
        speeds=(list[float], SPEEDS),
        silence_probability=(float, SHARE),
        silence_seconds=(float, ZERO),
        gain_db=(float, ZERO),
        noise_probability=(float, SHARE),
        noise_snr_db=(list[float], LOW_HIGH),
        impulse_probability=(float, SHARE),
    ),
    "hopscotch.data.augment.SpecAugment": node(
        Object,
        num_time_masks=(int, ZERO),
        time_mask_share=(float, PART),
        num_mel_masks=(int, ZERO),
        mel_mask_share=(float, PART),
        tilt=(float, ZERO),
    ),
    "hopscotch.frontend.LogMel": node(
        Object,
        sample_rate=(int, RATE),
        num_mels=(int, ONE),
        window_seconds=(float, ABOVE_ZERO),
        hop_seconds=(float, ABOVE_ZERO),
        min_hz=(float, ZERO),
        top_db=(float, ABOVE_ZERO),
        level=(str, one_of("clip", "none")),
    ),
    "hopscotch.whisper_mel.WhisperMel": node(
        Object,
        sample_rate=(int, RATE),
        num_mels=(int, ONE),
        window_seconds=(float, ABOVE_ZERO),
        hop_seconds=(float, ABOVE_ZERO),
    ),
    "hopscotch.training.classify.ClassificationTask": node(
        Object, label_smoothing=(float, PART), class_weights=(Any, WEIGHTS), threshold_lr=(float, ZERO)
    ),
    "hopscotch.training.detect.DetectionTask": node(
        Object, event_weight=(float, ABOVE_ZERO), threshold_lr=(float, ZERO)
    ),
    "hopscotch.training.regress.RegressionTask": node(Object, threshold_lr=(float, ZERO)),
    "hopscotch.training.tag.TaggingTask": node(Object, class_weights=(Any, WEIGHTS), threshold_lr=(float, ZERO)),
}

# Of whatever optimizer and scheduler, where they have the key; types come from their YAML.
STEPS = Rule("auto, or a whole number, at least 1", lambda v: v == "auto" or (isinstance(v, int) and v >= 1))
OPTIMIZER_RULES: dict[str, Rule] = {
    "optimizer.lr": ABOVE_ZERO,
    "optimizer.weight_decay": ZERO,
    "optimizer.betas": TWO_MOMENTS,
    "optimizer.momentum": PART,
    "optimizer.layer_decay": Rule("above 0 and up to 1", lambda value: 0 < value <= 1),
    "optimizer.head_rate": ABOVE_ZERO,
    "scheduler.num_steps": STEPS,
    "scheduler.total_steps": STEPS,
    "scheduler.warmup": SHARE,
    "scheduler.interval": one_of("step", "epoch"),
    "scheduler.frequency": ONE,
}
EXIT_RULES = one_of("confidence", "learned")
MODEL_RULES: dict[str, Rule] = {
    f"model.{group}.rule": EXIT_RULES for group in ("exits", "widths")
}  # of what may be null
OF_LIGHTNING = ("interval", "frequency", "monitor")  # keys of a scheduler that Lightning reads, not its class
# By node: keys that a class need not take, and arguments that `hopscotch.build` gives it.
ADDED = {
    "trainer": {"compile", "freeze", "unfreeze_every", "nonfinite_patience"},
    "optimizer": {"layer_decay", "head_rate"},
    "scheduler": set(OF_LIGHTNING),
}
GIVEN = {"trainer": {"callbacks", "logger", "default_root_dir"}, "optimizer": {"params"}, "scheduler": {"optimizer"}}

# The types of an encoder's keys come from its YAML. Only what these cannot say, and no class checks, stands here.
STRIDES = Rule("null, or a list of whole numbers, one per layer", lambda value: isinstance(value, list))
JUMP_RULES: dict[str, Rule] = {
    "inner": one_of("adapter", "transformer"),
    "jump.rule": one_of("skip", "literal"),
    "jump.mix": one_of("literal", "convex", "none"),
    "policy.sees": one_of("input", "first", "state"),
    "policy.estimator": one_of("reinforce", "gumbel", "gain", "random"),
}
ENCODER_RULES: dict[str, dict[str, Rule]] = {
    "hopscotch.models.stack.Stack": {"first": ONE, "strides": STRIDES},
    "hopscotch.models.strides.LearnedStack": {
        "max_stride": ONE,
        "gate_input": one_of("layer", "encoder", "first"),
        "estimator": one_of("selected", "soft", "reinforce", "gain"),
    },
    "hopscotch.models.jumps.JumpStack": JUMP_RULES,
    "hopscotch.models.jumps.JumpAttention": JUMP_RULES | {"attention_depth": ONE},
}
