"""Time one clip through the graphs of an exported model against torch, on one thread (item `shipped`)."""

import copy
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from hopscotch.build import build_model
from hopscotch.config.compose import CONF, compose
from hopscotch.restore import Restored
from hopscotch.ship.export import write
from hopscotch.ship.runner import Runner
from hopscotch.training.calibration import MAX_BIAS
from scripts.studies.bench.clip import NUM_CLASSES, meet
from scripts.studies.bench.passes import threads
from scripts.studies.bench.table import Row, row
from scripts.studies.bench.timing import Ratio, interleave

SECONDS = 1.0  # of the clip
MOST, MOST_LOST = 0.5, 0.1  # of torch's time; of the share saved by skipping


def shipped(rounds: int, device: str) -> Iterator[Row]:
    """Compare every model with its graphs, and what skipping saves in both; weights are untrained."""
    with threads(1), tempfile.TemporaryDirectory() as folder:
        for name in sorted(path.stem for path in (CONF / "model").glob("*.yaml")):
            yield from _against_torch(name, Path(folder) / name, rounds)


def _against_torch(name: str, folder: Path, rounds: int) -> Iterator[Row]:
    cfg = compose([f"model={name}"])
    torch.manual_seed(0)
    model = build_model(cfg, NUM_CLASSES).eval()
    waveform = 0.1 * torch.randn(1, int(SECONDS * cfg.data.sample_rate))
    lengths, clip = torch.tensor([waveform.shape[1]]), waveform[0].numpy()
    meet(model, waveform)
    bias, most = model.decision_bias.item(), math.sinh(MAX_BIAS)
    runner = Runner(write(Restored(cfg, model, [str(n) for n in range(NUM_CLASSES)], None, None, []), folder))
    everything = copy.deepcopy(model)
    everything.decision_bias.fill_(most)

    def eager(model: torch.nn.Module) -> Callable[[], Tensor]:
        @torch.no_grad()
        def call() -> Tensor:
            return model(waveform, lengths).logits.argmax()

        return call

    cases = {"torch": eager(model), "graphs": lambda: runner.run(clip, bias=bias)[0].argmax()}
    if model.decides:
        cases |= {"torch, all": eager(everything), "graphs, all": lambda: runner.run(clip, bias=most)[0].argmax()}
    times = interleave(cases, rounds=rounds)
    seconds = times.median("graphs"), times.median("torch")
    _, _, trace, dense_macs = runner.run(clip, bias=bias)
    facts = {"clip_seconds": SECONDS, "fraction": trace.macs / dense_macs}
    yield row(f"{name}, one clip: graphs / torch", times.ratio("graphs", "torch"), seconds, most=MOST, **facts)
    if model.decides:
        here, there = times.ratio("graphs", "graphs, all"), times.ratio("torch", "torch, all")
        lost = Ratio(here.value - there.value, here.low - there.high, here.high - there.low)
        yield row(f"{name}: share saved, torch - graphs", lost, seconds, most=MOST_LOST, **facts)
