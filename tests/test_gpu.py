"""What a GPU must do as the CPU does. Skipped where there is none; `bash scripts/studies/gpu.sh` runs these on one."""

import json
import math
from pathlib import Path

import pytest
import torch

from hopscotch.build import build_model, build_task
from hopscotch.plain import read_json_lines
from scripts.studies.bench.gpu import step_megabytes
from scripts.studies.decision_value import evaluate
from tests.small_models import decide_at_random
from tests.tiny import TINY_MODEL, TINY_RUN, Command, build, make_batch, tiny_config, tiny_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
MODELS = ("dense", "learned_skip", "skip_layer", "skip_transformer", "jump_attention")


@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_bfloat16_trains_weights_that_stay_in_float32(
    command: Command, tones: Path, tmp_path: Path, name: str
) -> None:
    words = [f"model={name}", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "trainer=gpu", "callbacks=default"]
    ended = command(*words, "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    losses = [line["train/loss"] for line in read_json_lines(run / "metrics.jsonl") if "train/loss" in line]
    assert losses
    assert all(loss is not None and math.isfinite(loss) for loss in losses)
    kept = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    assert {value.dtype for value in kept.values() if value.is_floating_point()} <= {torch.float32, torch.float64}


@pytest.mark.parametrize("gate", ["null", "0.5"])
@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_is_that_of_the_cpu(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gate: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # three digits of a convolution otherwise
    cfg = tiny_config(tones, tmp_path, f"model={name}", "model.depth=5", f"model.open_rate={gate}")
    _, data = build(cfg)
    task = build_task(cfg, build_model(cfg, data.num_classes), data)
    batch = make_batch(12, samples=(1280, 1600))
    if task.model.decides:
        decide_at_random(task.model, batch.waveform, batch.lengths)
    on_cpu = evaluate(task, [batch])
    decided = on_cpu.trace.decisions  # near a threshold rounding would decide
    on_gpu = evaluate(task.cuda(), [batch], decided)
    assert torch.equal(on_gpu.trace.decisions.strides, decided.strides)
    assert torch.equal(on_gpu.trace.decisions.jumps, decided.jumps)
    assert torch.equal(on_gpu.trace.macs, on_cpu.trace.macs)
    torch.testing.assert_close(on_gpu.losses, on_cpu.losses, rtol=1e-3, atol=1e-3)


def test_a_step_in_bfloat16_holds_less_memory_than_one_in_float32() -> None:
    half, full = (step_megabytes("dense", "cuda", bf16=bf16) for bf16 in (True, False))
    assert 0 < half < full
