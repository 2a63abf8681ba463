"""Answer with onnxruntime as a model of torch would: what `hopscotch export --format onnx` wrote, read as data."""

from pathlib import Path

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor, nn

from hopscotch.models.audio_model import AudioModel, OutputHead
from hopscotch.models.heads import TagHead
from hopscotch.plain import as_written, shown
from hopscotch.restore import Restored
from hopscotch.shared import MANIFEST
from hopscotch.ship.export import refuse_without_onnx
from hopscotch.ship.graphs import KINDS
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
        from hopscotch.ship.runner import Runner

        self.runner = Runner(folder)
        manifest = self.runner.manifest
        self.name, self._decides = str(manifest["model"]), bool(manifest["decides"])
        self.head = _head(manifest["kind"], len(manifest["classes"]), manifest.get("thresholds"))
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
        none = torch.zeros_like(trace.macs)
        return ModelOutput(torch.stack([torch.from_numpy(row) for row in logits]), trace, {}, none, none)


def _head(kind: str, num_classes: int, thresholds: list[float] | None) -> OutputHead:
    """Make a head to put scores into words; its weights are in a graph."""
    (made,) = (head for head, name in KINDS.items() if name == kind)
    head = made(1, num_classes, pooling="statistics", dropout=0.0)
    if isinstance(head, TagHead):
        head.thresholds.copy_(torch.tensor(thresholds))
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
