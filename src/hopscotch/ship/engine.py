"""Answer with onnxruntime as a model of torch would: what `hopscotch export --format onnx` wrote, read as data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

from hopscotch.models.audio_model import AudioModel, OutputHead
from hopscotch.models.heads import SURE, DetectionHead, TagHead
from hopscotch.plain import as_written, shown
from hopscotch.restore import Restored
from hopscotch.shared import MANIFEST
from hopscotch.ship.export import refuse_without_onnx
from hopscotch.ship.graphs import KINDS
from hopscotch.ship.runner import Runner, Stream
from hopscotch.training.calibration import Budget, is_table
from hopscotch.training.checkpoint import BUDGETS, check_classes, check_seconds
from hopscotch.types import Decisions, Lengths, ModelOutput, SkipTrace


class OnnxModel(AudioModel):
    """Answer as a model in evaluation does, with parts that are graphs: no stem or encoder can be looked into.

    Clips run one by one. The program of the folder is not run: this package has its own.
    """

    def __init__(self, folder: Path) -> None:
        nn.Module.__init__(self)
        refuse_without_onnx("engine=onnx")
        self.runner = Runner(folder)
        manifest = self.runner.manifest
        self.name, self._decides = str(manifest["model"]), bool(manifest["decides"])
        self.head = _head(self.runner)
        self.register_buffer("decision_bias", torch.tensor(float(manifest["bias"])))

    @property
    def decides(self) -> bool:
        return self._decides

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Lengths,
        keys: Lengths | None = None,
        repeat: Decisions | None = None,
    ) -> ModelOutput:
        """Compute outputs and traces, on the CPU; nothing is repeated."""
        assert repeat is None
        clips = [row[:length].numpy() for row, length in zip(waveform.cpu(), lengths.tolist(), strict=True)]
        ran = [self.runner.run(clip, bias=self.decision_bias.item()) for clip in clips]
        logits, _, traces, dense_macs = zip(*ran, strict=True)
        trace = SkipTrace.of(
            torch.tensor([trace.visited for trace in traces]),
            torch.tensor([trace.macs for trace in traces]),
            torch.tensor(dense_macs),
            strides=torch.tensor([trace.strides for trace in traces]),
            jumps=torch.tensor([trace.jumps for trace in traces], dtype=torch.int8),
            landings=torch.tensor([trace.landed for trace in traces]),
        )
        if self.runner.exits is not None:
            exits = torch.tensor([trace.exit for trace in traces])
            trace = replace(trace, decisions=replace(trace.decisions, exits=exits))
        none = torch.zeros_like(trace.macs)
        outputs = [torch.from_numpy(row) for row in logits]
        if self.head.pool:  # rows over time, background where a clip has no more of them
            closed = torch.zeros(outputs[0].shape[1])
            closed[-1] = SURE
            most = max(len(rows) for rows in outputs)
            outputs = [torch.cat([rows, closed.expand(most - len(rows), -1)]) for rows in outputs]
        return ModelOutput(torch.stack(outputs), trace, {}, none, none)

    def stream(self, on_scores: Callable[[np.ndarray], object] | None = None) -> Stream:
        """Begin to hear a recording without end."""
        return self.runner.stream(self.decision_bias.item(), on_scores)


def _head(runner: Runner) -> OutputHead:
    """Make a head to put scores into words; its weights are in a graph."""
    manifest = runner.manifest
    (made,) = (head for head, name in KINDS.items() if name == manifest["kind"])
    head = made(1, len(manifest["classes"]), pooling="statistics", dropout=0.0)
    if isinstance(head, TagHead | DetectionHead):
        head.thresholds.copy_(torch.tensor(manifest["thresholds"]))
    head.read_every(runner.hop * runner.stride, runner.sample_rate)
    return head


def read_onnx(folder: Path) -> Restored:
    """Read a model that was exported as graphs.

    Raises:
        ValueError: If a file was changed or cut, or the manifest holds what it must not.
    """
    path = shown(folder / MANIFEST)
    with as_written(path):
        model = OnnxModel(folder)
        manifest = model.runner.manifest
        classes, seconds = check_classes(manifest["classes"], path), manifest["clip_seconds"]
        known = (None, None) if seconds == {"mean": None, "longest": None} else check_seconds(seconds, path)
        if not is_table(table := manifest[BUDGETS]) and table:
            raise ValueError(f"{path} must have rising biases and fractions as {BUDGETS}, it has not.")
        cfg = OmegaConf.create({"data": {"sample_rate": model.runner.sample_rate}})
    return Restored(cfg, model.eval(), classes, *known, [Budget(*row) for row in table])
