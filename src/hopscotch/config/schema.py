"""What every key of the configuration may hold: its type, and the rule that its value keeps.

No value stands here: defaults live in conf/, once. A node finds its schema by its place (`Config` and the dataclasses
inside it) or by its `_target_` (`SCHEMAS`). A node without schema, such as the encoder of a model or a data source of
your own, is held to its own YAML file instead, see `hopscotch.config.compose`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from omegaconf import MISSING


class Rule(NamedTuple):
    """A claim that a value has to keep, and the words for it after "must be"."""

    words: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def one_of(*choices: str) -> Rule:
    return Rule("one of " + ", ".join(choices), lambda value: value in choices, choices)


def at_least(low: int | float) -> Rule:
    return Rule(f"at least {low}", lambda value: value >= low)


ABOVE_ZERO = Rule("above 0", lambda value: value > 0)
SHARE = Rule("between 0 and 1", lambda value: 0 <= value <= 1)
PART = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
TARGET = Rule("auto, or a fraction above 0 and up to 1", lambda v: v == "auto" or (is_number(v) and 0 < v <= 1))
FRACTION = Rule("above 0 and up to 1", lambda value: 0 < value <= 1)
BUDGETS = Rule(
    "null, a fraction above 0 and up to 1, or a list of some",
    lambda v: (
        v != [] and (v is None or all(is_number(b) and FRACTION.holds(b) for b in (v if isinstance(v, list) else [v])))
    ),
)
BATCHES = Rule(
    "a number of batches of at least 0, or a fraction from 0.0 to 1.0",
    lambda value: value >= 0 and (isinstance(value, int) or value <= 1),
)
SOME_BATCHES = Rule(
    "a number of batches of at least 1, or a fraction above 0.0 and up to 1.0",
    lambda value: value > 0 and (isinstance(value, int) or value <= 1),
)
NOT_EMPTY = Rule("not empty", lambda value: len(value) > 0)
TWO_MOMENTS = Rule("two numbers, each at least 0 and below 1", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v))
LOW_HIGH = Rule("two numbers, the lower one first", lambda value: len(value) == 2 and value[0] <= value[1])
DEVICES = Rule(
    "auto, a number of devices (-1: all), or a list of their indices",
    lambda v: v == "auto" or isinstance(v, list) or (isinstance(v, int) and (v == -1 or v >= 1)),
)
DETERMINISTIC = Rule("true, false or warn", lambda value: value in (True, False, "warn"))
FAST_DEV_RUN = Rule("true, false or a number of batches of at least 0", lambda v: isinstance(v, bool | int) and v >= 0)


def keeps(rule: Rule) -> Any:
    """A field that is filled by YAML and keeps `rule`. None, where the type allows it, keeps every rule."""
    return field(default=MISSING, metadata={"rule": rule})


@dataclass
class Compute:
    target: Any = keeps(TARGET)
    reach: float = keeps(SHARE)
    weight: float = keeps(at_least(0))
    entropy_weight: float = keeps(at_least(0))
    dense_weight: float = keeps(at_least(0))
    warmup: float = keeps(SHARE)
    budget: Any = keeps(BUDGETS)


@dataclass
class Augment:
    waveform: Any = MISSING
    spectrogram: Any = MISSING


@dataclass
class Size:
    name: str = MISSING
    dim: int = keeps(at_least(1))
    token_dim: int = keeps(at_least(1))
    plain_dim: int = keeps(at_least(1))
    heads: int = keeps(at_least(1))
    depth: int = keeps(at_least(1))
    ffn_ratio: float = keeps(ABOVE_ZERO)


@dataclass
class Gate:
    num_keys: int = keeps(at_least(1))
    hidden_ratio: float = keeps(ABOVE_ZERO)
    rule: str = keeps(one_of("target", "sign", "proportional", "off"))
    open_rate: float = keeps(SHARE)
    rate_floor: float = keeps(SHARE)
    rate_ceiling: float = keeps(SHARE)
    detach: bool = MISSING
    training_mode: str = keeps(one_of("full", "packed"))
    threshold_by: str = keeps(one_of("loss", "gradient"))


@dataclass
class Model:
    _target_: str = MISSING
    name: str = MISSING
    dim: int = keeps(at_least(1))
    heads: int = keeps(at_least(1))
    depth: int = keeps(at_least(1))
    ffn_ratio: float = keeps(ABOVE_ZERO)
    dropout: float = keeps(PART)
    convolution_width: int = keeps(
        Rule("0, or an odd number of positions", lambda value: value == 0 or (value > 0 and value % 2 == 1))
    )
    stem_stride: int = keeps(Rule("2 or 4", lambda value: value in (2, 4)))
    positions: str = keeps(one_of("sinusoidal", "convolutional", "none"))
    pooling: str = keeps(one_of("statistics", "maxima"))
    residual_init_scale: float = keeps(at_least(0))
    open_rate: float | None = keeps(SHARE)
    encoder: dict[str, Any] = MISSING  # free: one class and one YAML make a new model


@dataclass
class Trainer:
    _target_: str = MISSING
    max_epochs: int = keeps(at_least(1))
    max_steps: int = keeps(Rule("at least 1, or -1 for no limit", lambda value: value == -1 or value >= 1))
    max_time: str | None = MISSING
    accelerator: str = keeps(one_of("auto", "cpu", "gpu", "cuda", "mps"))
    devices: Any = keeps(DEVICES)
    num_nodes: int = keeps(at_least(1))
    strategy: str = MISSING
    precision: str = keeps(one_of("32-true", "bf16-mixed", "16-mixed", "64-true"))
    deterministic: Any = keeps(DETERMINISTIC)
    gradient_clip_val: float | None = keeps(at_least(0))
    accumulate_grad_batches: int = keeps(at_least(1))
    limit_train_batches: int | float = keeps(BATCHES)
    limit_val_batches: int | float = keeps(BATCHES)
    limit_test_batches: int | float = keeps(SOME_BATCHES)
    overfit_batches: int | float = keeps(BATCHES)
    val_check_interval: int | float = keeps(SOME_BATCHES)
    check_val_every_n_epoch: int = keeps(at_least(1))
    num_sanity_val_steps: int = keeps(at_least(-1))
    log_every_n_steps: int = keeps(at_least(1))
    fast_dev_run: Any = keeps(FAST_DEV_RUN)
    detect_anomaly: bool = MISSING
    profiler: str | None = keeps(one_of("simple", "advanced", "pytorch"))
    enable_progress_bar: bool = MISSING
    enable_model_summary: bool = MISSING
    use_distributed_sampler: bool = MISSING
    compile: bool = MISSING


@dataclass
class Config:
    """The root: what `python train.py --cfg job` prints."""

    seed: int = keeps(at_least(0))
    ckpt_path: str | None = MISSING
    run_dir: str = MISSING
    compute: Compute = field(default_factory=Compute)
    data: Any = MISSING
    augment: Augment = field(default_factory=Augment)
    frontend: Any = MISSING
    size: Size = field(default_factory=Size)
    gate: Gate = field(default_factory=Gate)
    model: Model = field(default_factory=Model)
    task: Any = MISSING
    trainer: Trainer = field(default_factory=Trainer)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class Source:
    """What every data source has."""

    _target_: str = MISSING
    sample_rate: int = keeps(at_least(1000))
    batch_size: int = keeps(at_least(1))
    num_workers: int = keeps(at_least(0))
    cache_gib: float = keeps(at_least(0))


@dataclass
class SyntheticWords(Source):
    num_train: int = keeps(at_least(1))
    num_val: int = keeps(at_least(1))
    num_test: int = keeps(at_least(1))
    corpus_seed: int = keeps(at_least(0))
    cache_dir: str | None = MISSING


@dataclass
class SyntheticScenes(SyntheticWords):
    scene_seconds: float = keeps(at_least(5))
    confusable: bool = MISSING


@dataclass
class Files(Source):
    root: str = MISSING
    on_bad_file: str = keeps(one_of("error", "skip"))


@dataclass
class Folder(Files):
    val_fraction: float = keeps(PART)
    test_fraction: float = keeps(PART)


@dataclass
class Fsdd(Files):
    split: str = keeps(one_of("official", "speaker"))
    test_speaker: str | None = MISSING


@dataclass
class WaveformAugment:
    _target_: str = MISSING
    sample_rate: int = keeps(at_least(1000))
    speeds: list[float] = keeps(NOT_EMPTY)
    silence_probability: float = keeps(SHARE)
    silence_seconds: float = keeps(at_least(0))
    gain_db: float = keeps(at_least(0))
    noise_probability: float = keeps(SHARE)
    noise_snr_db: list[float] = keeps(LOW_HIGH)


@dataclass
class SpecAugment:
    _target_: str = MISSING
    num_time_masks: int = keeps(at_least(0))
    time_mask_share: float = keeps(PART)
    num_mel_masks: int = keeps(at_least(0))
    mel_mask_share: float = keeps(PART)
    tilt: float = keeps(at_least(0))


@dataclass
class LogMel:
    _target_: str = MISSING
    sample_rate: int = keeps(at_least(1000))
    num_mels: int = keeps(at_least(1))
    window_seconds: float = keeps(ABOVE_ZERO)
    hop_seconds: float = keeps(ABOVE_ZERO)
    min_hz: float = keeps(at_least(0))
    range_db: float = keeps(ABOVE_ZERO)


@dataclass
class ClassificationTask:
    _target_: str = MISSING
    optimizer: Any = MISSING
    warmup: float = keeps(SHARE)
    label_smoothing: float = keeps(PART)
    threshold_lr: float = keeps(at_least(0))


@dataclass
class AdamW:
    _target_: str = MISSING
    lr: float = keeps(ABOVE_ZERO)
    weight_decay: float = keeps(at_least(0))
    betas: list[float] = keeps(TWO_MOMENTS)
    fused: bool = MISSING


SCHEMAS: dict[str, type] = {
    "hopscotch.data.synthetic.source.SyntheticWords": SyntheticWords,
    "hopscotch.data.synthetic.source.SyntheticScenes": SyntheticScenes,
    "hopscotch.data.folder.Folder": Folder,
    "hopscotch.data.fsdd.Fsdd": Fsdd,
    "hopscotch.data.augment.WaveformAugment": WaveformAugment,
    "hopscotch.data.augment.SpecAugment": SpecAugment,
    "hopscotch.frontend.LogMel": LogMel,
    "hopscotch.training.classify.ClassificationTask": ClassificationTask,
    "torch.optim.AdamW": AdamW,
}

# The encoders' types come from their YAML; what a type cannot say stands here, and need not for an encoder of your own.
STRIDES = Rule("null, or a list of whole numbers, one per layer", lambda value: isinstance(value, list))
JUMP_RULES: dict[str, Rule] = {
    "inner": one_of("adapter", "transformer"),
    "expansion": at_least(1),
    "jump.rule": one_of("skip", "literal"),
    "jump.max": at_least(1),
    "jump.mix": one_of("literal", "convex", "none"),
    "policy.sees": one_of("input", "first", "state"),
    "policy.estimator": one_of("reinforce", "gumbel", "gain", "random"),
}
ENCODER_RULES: dict[str, dict[str, Rule]] = {
    "hopscotch.models.stack.Stack": {"first": at_least(1), "strides": STRIDES},
    "hopscotch.models.strides.LearnedStack": {
        "max_stride": at_least(1),
        "gate_input": one_of("layer", "encoder", "first"),
        "estimator": one_of("selected", "soft", "reinforce", "gain"),
        "temperature_start": ABOVE_ZERO,
        "temperature_end": ABOVE_ZERO,
    },
    "hopscotch.models.jumps.JumpStack": JUMP_RULES,
    "hopscotch.models.jumps.JumpAttention": JUMP_RULES | {"attention_depth": at_least(1)},
}
