"""Measure what `trainer.compile` saves, and how long compiling takes (item `compile`); there is no bar."""

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from hopscotch.build import build_model
from hopscotch.config.compose import compose
from hopscotch.models.audio_model import AudioModel
from scripts.studies.bench.passes import DIRECTIONS, one_pass
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

BATCH, SECONDS = 32, 0.5  # clips of about FSDD's length
SAMPLE_RATE = 8000
NUM_CLASSES = 10
MODELS = ("dense", "skip_attention", "skip_transformer")


def compiled(rounds: int, device: str) -> Iterator[Row]:
    """Compare a model's time when compiled with its time when not, and add the seconds of compiling."""
    for name in MODELS:
        plain, fast = (_model(name, compile=value).to(device) for value in ("false", "true"))
        fast.load_state_dict(plain.state_dict())
        waveform = torch.randn(BATCH, int(SECONDS * SAMPLE_RATE), device=device)
        for direction in DIRECTIONS:
            cases = {
                "eager": one_pass(plain, partial(_logits, plain), waveform, direction),
                "compiled": one_pass(fast, partial(_logits, fast), waveform, direction),
            }
            begun = time.perf_counter()
            cases["compiled"]()
            first = time.perf_counter() - begun
            times = interleave(cases, rounds=rounds, device=device)
            yield row(
                f"{name}: compiled / not, {direction}",
                times.ratio("compiled", "eager"),
                (times.median("compiled"), times.median("eager")),
                batch=BATCH,
                clip_seconds=SECONDS,
                compile_seconds=round(first, 1),
            )


def _logits(model: AudioModel, waveform: Tensor) -> Tensor:
    lengths = torch.full((len(waveform),), waveform.shape[1], device=waveform.device)
    return model(waveform, lengths).logits


def _model(name: str, *, compile: str) -> AudioModel:
    cfg = compose([f"model={name}", f"trainer.compile={compile}", "augment=none", f"data.sample_rate={SAMPLE_RATE}"])
    torch.manual_seed(0)
    return build_model(cfg, NUM_CLASSES)
