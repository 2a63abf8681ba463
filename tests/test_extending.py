"""Tasks of a newcomer, in files of their own: trained, tested and reported like any other, without an edit."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hopscotch.evaluate import evaluate
from tests.tiny import TINY_MODEL, TINY_RUN, Command, tiny_folder

LOUDNESS = '''
import torch
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

from hopscotch.models.audio_model import Head
from hopscotch.training.task import AudioTask
from hopscotch.types import Primary


def level(batch):
    """Root mean square of each clip, in dB."""
    power = batch.waveform.square().sum(dim=1) / batch.lengths
    return 10 * torch.log10(power + 1e-9)


class LoudnessTask(AudioTask):
    primary = Primary("mae", larger_is_better=False)

    @classmethod
    def make_head(cls, dim, num_outputs, *, pooling, dropout):
        return Head(dim, 1, pooling=pooling, dropout=dropout)

    def losses(self, output, batch):
        return (output.logits[:, 0] - level(batch) / 10).square()

    def metrics(self):
        return MetricCollection({"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False)})

    def judged(self, output, batch):
        return 10 * output.logits[:, 0], level(batch)

    def rows(self, output, batch):
        return {"decibels_said": 10 * output.logits[:, 0].detach(), "decibels_true": level(batch)}
'''

ACTIVITY = '''
import torch
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from hopscotch.compute import linear_macs
from hopscotch.models.audio_model import OutputHead
from hopscotch.training.task import AudioTask
from hopscotch.types import Primary, valid_mask


class FrameHead(OutputHead):
    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, 2)

    def forward(self, x, mask):
        return self.linear(x)

    def macs(self, time):
        return linear_macs(time, self.linear.in_features, 2)


def active(output, batch):
    """Whether each position is louder than half of its clip's mean level, by position."""
    power, size = batch.waveform.square(), output.logits.shape[1]
    step = -(-power.shape[1] // size)
    levels = nn.functional.pad(power, (0, step * size - power.shape[1])).unflatten(1, (size, step)).mean(dim=2)
    mean = power.sum(dim=1, keepdim=True) / batch.lengths[:, None]
    return (levels > mean / 2).long()


class ActivityTask(AudioTask):
    primary = Primary("f1", larger_is_better=True)

    @classmethod
    def make_head(cls, dim, num_outputs, *, pooling, dropout):
        return FrameHead(dim)

    def losses(self, output, batch):
        mask = valid_mask(output.positions, output.logits.shape[1])
        losses = nn.functional.cross_entropy(output.logits.mT, active(output, batch), reduction="none")
        return (losses * mask).sum(dim=1) / output.positions

    def metrics(self):
        return MetricCollection({"accuracy": BinaryAccuracy(), "f1": BinaryF1Score()})

    def judged(self, output, batch):
        mask = valid_mask(output.positions, output.logits.shape[1])
        return output.logits.argmax(dim=-1)[mask], active(output, batch)[mask]

    def distance(self, output, teacher):
        mask = valid_mask(output.positions, output.logits.shape[1])
        return nn.functional.mse_loss(output.logits[mask], teacher.logits.detach()[mask])

    def rows(self, output, batch):
        mask = valid_mask(output.positions, output.logits.shape[1])
        said = output.logits.detach().argmax(dim=-1) * mask
        return {"share_active": said.sum(dim=1) / output.positions, "frames": output.positions}
'''

OPTIONS = """
threshold_lr: 0.01
"""


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize(
    ("module", "source", "kind", "metrics", "columns"),
    [
        ("loudness", LOUDNESS, "LoudnessTask", ["mae", "rmse"], ["decibels_said", "decibels_true"]),
        ("activity", ACTIVITY, "ActivityTask", ["f1", "accuracy"], ["share_active", "frames"]),
    ],
)
def test_a_task_in_two_files_is_trained_tested_and_reported(
    module: str,
    source: str,
    kind: str,
    metrics: list[str],
    columns: list[str],
    command: Command,
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = tmp_path / "project"
    (own / "conf" / "task").mkdir(parents=True)
    (own / f"{module}.py").write_text(source)
    (own / "conf" / "task" / f"{module}.yaml").write_text(f"# Mine\n_target_: {module}.{kind}\n{OPTIONS}")
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.delitem(sys.modules, module, raising=False)
    typed = [f"--config-dir={own / 'conf'}", f"task={module}", *tiny_folder(tones), *TINY_MODEL, "hydra.run.dir=run"]
    typed += [*(word for word in TINY_RUN if word not in ("~logger", "callbacks=quiet")), "trainer.max_epochs=2"]
    ended = command(*typed, "model=skip_transformer", "callbacks.checkpoint.monitor=val/" + metrics[0])
    assert ended.code == 0, ended.err
    run = Path("run").absolute()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["primary"]["name"] == metrics[0]
    assert summary["primary"]["test"] == summary["test"][metrics[0]]
    assert summary["kept"]["monitor"] == f"val/{metrics[0]}"
    assert summary["kept"]["value"] == pytest.approx(summary["primary"]["val"])
    for name in metrics:
        assert f"test {name}" in ended.out
    with (run / "report" / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["path", *columns, "compute"]
    assert len(rows) == 3
    for row in rows:
        assert all(math.isfinite(float(row[name])) for name in (*columns, "loss"))
    html, card = (run / "report" / "index.html").read_text(), (run / "README.md").read_text()
    for text in (html, card):
        assert f"test {metrics[0]}, 3 clips" in text
        assert "Layer by layer" in text
        assert "The largest losses" in text
        assert "By class" not in text
        assert "Confusions" not in text
    events, val, test = (
        EventAccumulator(str(path), {"images": 0}).Reload() for path in (run, run / "val", run / "test")
    )
    assert set(metrics) <= set(val.Tags()["scalars"])
    assert metrics[0] in test.Tags()["scalars"]
    assert "jump/history" in events.Tags()["images"]
    assert "val/confusion" not in events.Tags()["images"]
    folder = evaluate(run, ["compute.budget=[0.9,1.0]"], trust=[module])
    found = json.loads((folder / "metrics.json").read_text())
    assert found["conditions"][0]["requested"] == 0.9
    assert found[metrics[0]] == found["test"][metrics[0]]
    assert "per_class" not in found
    assert f"test {metrics[0]}" in capsys.readouterr().out
    assert (run / "report" / "budgets.csv").read_text().splitlines()[0].endswith(f"macs,{metrics[0]}")
