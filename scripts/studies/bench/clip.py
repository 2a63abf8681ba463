"""Time one clip at a time, as in a keyword spotter: from waveform to label on one thread (item `clip`)."""

import copy
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
import torchaudio
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hopscotch.build import build_model
from hopscotch.conditions import nothing_skipped
from hopscotch.config.compose import CONF, compose
from hopscotch.frontend import LogMel
from hopscotch.models.audio_model import AudioModel
from hopscotch.training.calibration import calibrate
from hopscotch.types import AudioBatch
from scripts.studies.bench.passes import threads
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

SECONDS = (1.0, 10.0)  # of the clip
FRACTION = 0.8  # of the compute, or the floor of a model that cannot go so low: then without a bar
NUM_CALLS = 50  # timed one by one, for the quantiles
NUM_CLASSES = 10
MINUTE = 60 * 16_000  # samples
MOST_OF_TORCHAUDIO = 0.6


def clip(rounds: int, device: str) -> Iterator[Row]:
    """Compare every model at a fraction of 0.8 with itself when nothing is skipped; weights are untrained."""
    with threads(1):
        yield from front_end(rounds, device)
        for name in sorted(path.stem for path in (CONF / "model").glob("*.yaml")):
            cfg = compose([f"model={name}"])
            torch.manual_seed(0)
            model = build_model(cfg, NUM_CLASSES).to(device).eval()
            for seconds in SECONDS:
                yield _against_itself(model, seconds, cfg.data.sample_rate, rounds, device)


@torch.no_grad()
def front_end(rounds: int, device: str) -> Iterator[Row]:
    """Compare the mel frames of a minute of audio with torchaudio's, all of them and every second one."""
    waveform = 0.1 * torch.randn(1, MINUTE, device=device)
    lengths = torch.tensor([MINUTE], device=device)
    ours = LogMel(sample_rate=16_000).to(device)
    theirs = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=ours.fft, win_length=ours.window, hop_length=ours.hop, n_mels=ours.num_mels, f_min=20.0
    ).to(device)
    cases = {
        "ours": lambda: ours(waveform, lengths),
        "every second frame": lambda: ours.power(waveform, every=2),
        "torchaudio": lambda: theirs(waveform),
    }
    times = interleave(cases, rounds=rounds, device=device)
    for name, most in {"ours": MOST_OF_TORCHAUDIO, "every second frame": None}.items():
        seconds = times.median(name), times.median("torchaudio")
        yield row(
            f"mel frames of a minute, {name}: time / torchaudio's", times.ratio(name, "torchaudio"), seconds, most=most
        )


def _against_itself(model: AudioModel, seconds: float, sample_rate: int, rounds: int, device: str) -> Row:
    waveform = 0.1 * torch.randn(1, int(seconds * sample_rate), device=device)
    lengths = torch.tensor([waveform.shape[1]], device=device)
    meet(model, waveform)

    def label(model: AudioModel) -> Callable[[], Tensor]:
        @torch.no_grad()
        def call() -> Tensor:
            return model(waveform, lengths).logits.argmax()

        return call

    with torch.no_grad():
        fraction = model(waveform, lengths).trace.fraction.item()
    dense = copy.deepcopy(model)
    with nothing_skipped(dense):
        times = interleave({"adaptive": label(model), "dense": label(dense)}, rounds=rounds, device=device)
    p50, p95 = quantiles(label(model), [0.5, 0.95])
    has_bar = model.decides and fraction <= FRACTION
    return row(
        f"{model.name}, one clip: time / itself with nothing skipped",
        times.ratio("adaptive", "dense"),
        (times.median("adaptive"), times.median("dense")),
        most=1.0 if has_bar else None,
        clip_seconds=seconds,
        fraction=fraction,
        p50_ms=1000 * p50,
        p95_ms=1000 * p95,
        peak_mb=peak_megabytes(label(model)),
    )


def meet(model: AudioModel, waveform: Tensor) -> None:
    """Bring a clip of a model that decides to `FRACTION` of the compute, or as near as its steps are."""
    if not model.decides:
        return
    lengths = torch.tensor([waveform.shape[1]], device=waveform.device)
    batch = AudioBatch(waveform, lengths, lengths, lengths, lengths)
    floor = model.cost(waveform.shape[1]).floor
    fraction = calibrate(model, [batch], max(FRACTION - 0.01, floor)).achieved
    if floor <= FRACTION < fraction:  # a single clip moves in steps: take the next below
        calibrate(model, [batch], floor)


def quantiles(call: Callable[[], Tensor], shares: list[float]) -> list[float]:
    """Return quantiles of the seconds of single calls."""
    seconds = []
    for _ in range(NUM_CALLS):
        begun = time.perf_counter()
        call().item()  # waits for a GPU
        seconds.append(time.perf_counter() - begun)
    return torch.tensor(seconds, dtype=torch.float64).quantile(torch.tensor(shares, dtype=torch.float64)).tolist()


def peak_megabytes(call: Callable[[], object]) -> float:
    """Measure the peak of the memory that a call allocates through torch."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        call()
    results: Any = measured.profiler  # its raw events keep the order of allocations; the typed ones do not
    events = results.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]")) / 2**20
