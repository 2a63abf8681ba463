"""Time single clips that leave by exits, on one thread, at a budget of 0.3 (items `exits`, `cascade`, `backbone`)."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from hopscotch.build import build_model
from hopscotch.conditions import nothing_skipped
from hopscotch.config.compose import compose
from hopscotch.models.audio_model import AudioModel, Head
from hopscotch.models.cascade import Cascade
from hopscotch.models.exits import Ladder
from hopscotch.training.calibration import calibrate
from hopscotch.types import AudioBatch
from scripts.studies.bench.clip import NUM_CLASSES
from scripts.studies.bench.passes import threads
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import interleave

BUDGET, SLACK = 0.3, 0.15  # of the multiply-accumulates; of the time, beyond that
RATE = 16_000  # Hz
SECONDS = (1.0, 10.0)  # of a clip
NUM_CLIPS, NUM_CALLS = 24, 4  # calls of each, for the quantiles
# Whisper tiny, without its weights: time does not depend on them.
BACKBONE = (
    *("frontend=whisper", "model=exits_every_layer", "model.backbone=whisper", "model.stem_stride=2"),
    *("model.dim=384", "model.heads=6", "model.depth=4", "model.ffn_ratio=4", "model.convolution_width=0"),
)


def exits(rounds: int, device: str) -> Iterator[Row]:
    """Time models that go on with what they have."""
    yield from _rows("early_exit", ["model=early_exit"], rounds, device)
    yield from _rows("slimmable", ["model=slimmable"], rounds, device)


def cascade(rounds: int, device: str) -> Iterator[Row]:
    """Time two models, the second of which hears what the first is not sure of: narrow and wide, shallow and deep."""
    pairs = {
        "size=tiny and small": ("size=tiny", "size=small"),
        "one and six layers": ("model.depth=1", "model.depth=6"),
    }
    for name, pair in pairs.items():
        yield from _rows(f"cascade, {name}", [f"model=dense {words}" for words in pair], rounds, device)


def backbone(rounds: int, device: str) -> Iterator[Row]:
    """Time an encoder as large as Whisper tiny with exits behind its stem and every layer."""
    yield from _rows("exits on Whisper tiny", [" ".join(BACKBONE)], rounds, device)


def _rows(name: str, words: Sequence[str], rounds: int, device: str) -> Iterator[Row]:
    """Compare a model that meets a mean budget of 0.3 over clips with itself when no clip leaves early.

    Weights are drawn at random, those of heads such that clips differ in how sure an exit is.
    """
    with threads(1):
        torch.manual_seed(0)
        model = made(words).to(device).eval()
        for seconds in SECONDS:
            yield _against_itself(name, model, clips_of(seconds, device), seconds, rounds, device)


def made(words: Sequence[str]) -> Ladder:
    """Build a model, or the cascade of several."""
    stages = [build_model(compose([*one.split(), f"data.sample_rate={RATE}"]), NUM_CLASSES) for one in words]
    model: AudioModel = Cascade(name="cascade", stages=stages) if len(stages) > 1 else stages[0]
    assert isinstance(model, Ladder)
    for part in model.modules():
        if isinstance(part, Head) and part.linear.weight is not None:  # a narrow width has that of the full one
            nn.init.normal_(part.linear.weight)
    return model


def clips_of(seconds: float, device: str) -> Tensor:
    """Make clips of noise, each with a slope of its own over frequency."""
    size = int(seconds * RATE)
    spectra = torch.fft.rfft(torch.randn(NUM_CLIPS, size))
    slopes = torch.linspace(-2.0, 0.5, NUM_CLIPS)[:, None]
    return nn.functional.normalize(
        torch.fft.irfft(spectra * torch.arange(1, spectra.shape[1] + 1) ** slopes, n=size), p=torch.inf
    ).to(device)


@torch.no_grad()
def meet(model: Ladder, clips: Tensor) -> float:
    """Bring the mean of the clips to the budget, and return what they come to of all multiply-accumulates."""
    lengths = torch.full((len(clips),), clips.shape[1], device=clips.device)
    model.decision_bias.zero_()
    model.exits.thresholds.copy_(model.exits.scores(model.at_exits(clips, lengths)).median(dim=0).values)
    return calibrate(model, [AudioBatch(clips, lengths, lengths, lengths, lengths)], BUDGET).achieved


def _against_itself(name: str, model: Ladder, clips: Tensor, seconds: float, rounds: int, device: str) -> Row:
    fraction = meet(model, clips)
    lengths = torch.tensor([clips.shape[1]], device=device)

    @torch.no_grad()
    def one(clip: Tensor) -> float:
        return model(clip[None], lengths).logits.argmax().item()

    def all_of_them() -> None:
        for clip in clips:
            one(clip)

    def whole(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with nothing_skipped(model):
                call()

        return run

    times = interleave({"budget": all_of_them, "all": whole(all_of_them)}, rounds=rounds, device=device)
    own, full = (times.median(case) / len(clips) for case in ("budget", "all"))
    told = {f"p{100 * share:.0f}_ms": 1000 * value for share, value in quantiles(one, clips).items()}
    with nothing_skipped(model):
        whole_p50 = quantiles(one, clips)[0.5]
    return row(
        f"{name}, single clips: time / itself with nothing skipped",
        times.ratio("budget", "all"),
        (own, full),
        most=BUDGET + SLACK,
        clip_seconds=seconds,
        fraction=fraction,
        **told,
        all_p50_ms=1000 * whole_p50,
    )


def quantiles(call: Callable[[Tensor], object], clips: Tensor) -> dict[float, float]:
    """Return quantiles of the seconds of calls with single clips."""
    seconds = []
    for _ in range(NUM_CALLS):
        for clip in clips:
            begun = time.perf_counter()
            call(clip)
            seconds.append(time.perf_counter() - begun)
    found = sorted(seconds)
    return {share: found[math.ceil(share * len(found)) - 1] for share in (0.5, 0.95, 0.99)}
