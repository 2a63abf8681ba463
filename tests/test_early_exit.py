"""A model that stops early, kept outside of the package, shows its layers in terminal, TensorBoard and page."""

import json
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tiny import TINY_RUN, Command, tiny_folder

ENCODER = '''
import torch
from torch import nn

from hopscotch.compute import linear_macs
from hopscotch.layers.block import TransformerBlock
from hopscotch.layers.pooling import masked_mean
from hopscotch.models.encoder import Cost, Encoder
from hopscotch.types import SkipTrace, valid_mask


class EarlyExit(Encoder):
    """Let each clip leave after any block whose score says so; a clip that left keeps its state."""

    skips = frozenset({"exits"})
    decides = True

    def __init__(self, block, depth):
        super().__init__()
        self.spec, self.depth = block, depth
        self.blocks = nn.ModuleList(TransformerBlock(block) for _ in range(depth))
        self.scores = nn.ModuleList(nn.Linear(block.dim, 1) for _ in range(depth - 1))

    def forward(self, x, lengths, bias=0.0, repeat=None):
        stays = torch.ones(len(x), dtype=torch.bool, device=x.device)
        chance = torch.ones(len(x), device=x.device)
        visited, chances = [], []
        for layer, block in enumerate(self.blocks):
            visited.append(stays)
            chances.append(chance)
            rows = stays.nonzero()[:, 0]
            if len(rows):
                x = x.index_copy(0, rows, block(x.index_select(0, rows), lengths[rows]))
            if layer + 1 < self.depth:
                mean = masked_mean(x, valid_mask(lengths, x.shape[1])).detach()
                share = torch.sigmoid(self.scores[layer](mean)[:, 0] + bias)
                goes_on = torch.bernoulli(share) > 0 if self.training else share > 0.5
                if repeat is not None:
                    goes_on = repeat.strides[:, layer + 1] > 0
                stays, chance = stays & goes_on, chance * share
        ran, chances = torch.stack(visited, 1), torch.stack(chances, 1)
        block, deciders = self.spec.macs(lengths), (self.depth - 1) * linear_macs(1, self.spec.dim, 1)
        dense = self.depth * block + deciders
        expected = (chances.sum(1) * block + deciders) / dense
        macs = ran.sum(1) * block + deciders
        return x, SkipTrace.of(ran, macs, dense, strides=ran.long(), expected_compute=expected)

    def cost(self, time):
        block, deciders = self.spec.macs(time), (self.depth - 1) * linear_macs(1, self.spec.dim, 1)
        dense = self.depth * block + deciders
        return Cost(block + deciders, dense, dense, dense)
'''

CONFIG = """# Each clip leaves after the block that it needs
defaults:
  - parts/audio_model@_here_
  - _self_

name: stops_early
encoder:
  _target_: early_exit_of_a_test.EarlyExit
"""


@pytest.fixture
def run(
    tmp_path: Path, tones: Path, command: Command, monkeypatch: pytest.MonkeyPatch, pages: None
) -> tuple[Path, str]:
    """Train it as a user would; the folder of the run, and what was printed."""
    (tmp_path / "early_exit_of_a_test.py").write_text(ENCODER)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "stops_early.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(tmp_path)
    words = [word for word in TINY_RUN if word != "~logger" and not word.startswith("trainer.max_epochs")]
    ended = command(
        "--config-dir", str(tmp_path / "conf"), "model=stops_early", "model.dim=16", "model.heads=2", "model.depth=3",
        *tiny_folder(tones), *words, "trainer.max_epochs=2", "callbacks=default", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return tmp_path / "run", ended.out


def test_an_early_exit_shows_its_layers_in_terminal_tensorboard_and_page(run: tuple[Path, str]) -> None:
    folder, printed = run
    assert json.loads((folder / "summary.json").read_text())["skips"] == ["exits"]
    rows = re.search(r"^layer +ran.*\n((?: +\d.*\n)+)", printed, re.MULTILINE)
    assert rows is not None, printed
    assert [row.split()[0] for row in rows[1].splitlines()] == ["0", "1", "2"]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()
    assert {f"jump/visited/layer_{layer:02d}" for layer in range(3)} <= set(tags["scalars"])
    assert "jump/history" in tags["images"]
    page = (folder / "report" / "index.html").read_text()
    assert '<th class="number">ran</th>' in page
    assert (folder / "report" / "skips.svg").is_file()
