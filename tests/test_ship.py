"""A model that is shipped as graphs answers, decides and costs as it does in torch."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from hopscotch import cli, load
from hopscotch.build import build_model
from hopscotch.models.audio_model import AudioModel
from hopscotch.restore import Restored, restore
from hopscotch.shared import MANIFEST, ONNX, VERSION, hash_of
from hopscotch.ship import runner as shipped
from hopscotch.ship.export import export_onnx, write
from hopscotch.ship.graphs import TIME, cut
from hopscotch.ship.runner import Runner
from tests.small_models import decide_at_random, make_clips
from tests.tiny import MODELS, composed
from tests.trained import write_run

SAMPLES = [3000, 1700, 2345, 90]  # at 8 kHz
SIZE = ("data.sample_rate=8000", "model.dim=16", "model.heads=2", "model.depth=4")
VARIANTS = {
    "image_stem": ("dense", "model.stem_channels=[4,8]", "model.positions=convolutional", "model.pooling=maxima"),
    "gated_jumps": ("skip_transformer", "model.open_rate=0.3", "model.stem_layers=1"),
    "gated_adapters": ("skip_layer", "model.open_rate=0.3"),
    "planned_strides": ("learned_skip", "model.encoder.gate_input=encoder", "model.open_rate=null"),
    "by_state": ("skip_transformer", "model.encoder.policy.sees=state", "model.encoder.jump.rule=literal"),
    "no_memory": ("skip_transformer", "model.encoder.jump.mix=none"),
}
ONCE = "model must answer once to be exported as ONNX"
NOT_SHIPPED = {"always_on": r"model\.stage must be null", "early_exit": ONCE, "slimmable": ONCE}
CASES = {name: (name,) for name in MODELS if name not in NOT_SHIPPED} | VARIANTS


def made(case: str) -> tuple[Restored, tuple[torch.Tensor, torch.Tensor]]:
    """A model whose decisions differ from clip to clip, and the clips."""
    name, *changes = CASES.get(case, (case,))
    cfg = composed(f"model={name}", *SIZE, *changes)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    assert isinstance(model, AudioModel)
    clips = make_clips(SAMPLES)
    decide_at_random(model, *clips)
    return Restored(cfg, model.eval(), ["a", "b", "c"], 0.2, 0.4, []), clips


@pytest.mark.parametrize("case", CASES)
def test_graphs_answer_as_torch_does(case: str, tmp_path: Path) -> None:
    restored, (waveform, lengths) = made(case)
    runner = Runner(write(restored, tmp_path / "model"))
    for clip, length in zip(waveform, lengths.tolist(), strict=True):
        for bias in (0.0, -2.0, 2.0):
            restored.model.decision_bias.fill_(bias)
            with torch.no_grad():
                output = restored.model(clip[None, :length], torch.tensor([length]))
            logits, scores, trace, dense_macs = runner.run(clip[:length].numpy(), bias=bias)
            assert np.abs(logits - output.logits[0].numpy()).max() <= 1e-4
            assert np.abs(scores - output.logits[0].softmax(dim=0).numpy()).max() <= 1e-4
            there = output.trace
            assert (trace.macs, dense_macs) == (there.macs.item(), there.dense_macs.item())
            assert [trace.strides, trace.jumps] == [there.strides[0].tolist(), there.jumps[0].tolist()]
            assert [trace.visited, trace.landed] == [there.visited[0].tolist(), there.landings[0].tolist()]


@pytest.mark.parametrize("case", ["learned_skip", "gated_adapters", "jump_attention", "image_stem"])
def test_each_graph_computes_what_was_traced_at_any_length(case: str, tmp_path: Path) -> None:
    restored, _ = made(case)
    runner = Runner(write(restored, tmp_path / "model"))
    for name, graph in cut(restored.model).graphs.items():
        for time in (2, TIME, 61):
            inputs = dict(graph.inputs)
            for key, value in inputs.items():
                if key in ("x", "start", "around", "normed", "power"):
                    inputs[key] = torch.rand(1, time, value.shape[2])
            if "keys" in inputs:
                inputs["keys"] = torch.arange(0, time, 3)
            with torch.no_grad():
                wanted = graph.module.eval()(*inputs.values())
            found = runner._graph(name, **{key: value.numpy() for key, value in inputs.items()})
            for there, here in zip(wanted if isinstance(wanted, tuple) else (wanted,), found, strict=True):
                assert np.abs(here.astype(np.float64) - there.double().numpy()).max() <= 1e-4, name


def test_the_cases_decide() -> None:
    """Otherwise the tests above would hold of graphs that are never left out."""
    for case in ("learned_skip", "skip_layer", "by_state", "gated_jumps"):
        restored, clips = made(case)
        with torch.no_grad():
            trace = restored.model(*clips).trace
        assert len(set(trace.fraction.tolist())) > 1, case
        assert trace.fraction.min() < 1, case


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), tones)


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(run, tmp_path_factory.mktemp("shipped") / "model")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for path in folder.glob("*.*"):  # Python may leave a folder of compiled files
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_predict_takes_either_engine(run: Path, folder: Path, tones: Path) -> None:
    clips = sorted(tones.rglob("*.wav"))
    there, here = (list(load(place).predict(clips)) for place in (run, folder))
    assert len({answer.prediction.label for answer in there if answer.prediction}) > 1
    for one, other in zip(there, here, strict=True):
        assert one.prediction is not None
        assert other.prediction is not None
        assert other.prediction.label == one.prediction.label
        assert other.prediction.probabilities == pytest.approx(one.prediction.probabilities, abs=1e-4)
        assert other.prediction[3:8] == one.prediction[3:8]  # MACs, strides, history, route


def test_the_command_exports_graphs_and_predicts_with_them(
    run: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["export", str(run), "format=onnx", "int8=true"])
    folder = capsys.readouterr().out.strip()
    assert folder == f"{run.name}-onnx"
    assert json.loads(Path(folder, MANIFEST).read_text())["int8"] is True
    for place, engine, code, text in (
        (folder, "onnx", 0, "low"),
        (folder, "torch", 2, "engine must be onnx for"),
        (str(run), "onnx", 2, "hopscotch export RUN --format onnx"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["predict", place, str(min((tones / "low").iterdir())), f"engine={engine}"])
        assert end.value.code == code
        assert text in "".join(capsys.readouterr())


def test_eight_bits_leave_what_decides_alone(run: Path, folder: Path, tones: Path, tmp_path: Path) -> None:
    small = export_onnx(run, tmp_path / "small", int8=True)
    assert b"MatMulInteger" in (small / "stage1.onnx").read_bytes()
    assert (small / "stage0_plan.onnx").read_bytes() == (folder / "stage0_plan.onnx").read_bytes()
    clip = min((tones / "low").iterdir())
    there, here = load(folder)(clip), load(small)(clip)
    assert here.label == there.label
    assert here.probabilities != there.probabilities


def test_the_runner_needs_numpy_and_onnxruntime_alone(folder: Path, run: Path, tones: Path) -> None:
    clip = min((tones / "middle").iterdir())
    program = (
        "import sys; from runner import main; main(sys.argv[1:])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(clip)], cwd=folder, capture_output=True, text=True, check=True
    )
    said, loaded = ended.stdout.splitlines()
    wanted = load(run)(clip)
    assert json.loads(said)["label"] == wanted.label
    assert json.loads(said)["compute"] == wanted.compute
    assert {"numpy", "onnxruntime", "soundfile"} <= set(loaded.split())
    assert {"torch", "torchaudio", "hopscotch", "onnx", "omegaconf", "yaml"} & set(loaded.split()) == set()


@pytest.mark.slow
def test_every_model_runs_in_a_fresh_environment(tmp_path: Path, tones: Path) -> None:
    """With numpy, onnxruntime and soundfile alone; they come from a package registry."""
    python = tmp_path / "environment" / "bin" / "python"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python.parent.parent)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-c", "constraints.txt"]
    subprocess.run([*pip, "numpy", "onnxruntime", "soundfile"], cwd=root, check=True)
    clip = min((tones / "high").iterdir())
    for case in CASES:
        restored, _ = made(case)
        folder = write(restored, tmp_path / case)
        ended = subprocess.run(
            [str(python), "-I", str(folder / "runner.py"), str(clip)], capture_output=True, text=True, check=True
        )
        wanted, said = load(folder)(clip), json.loads(ended.stdout)
        assert (said["label"], said["macs"], said["strides"]) == (wanted.label, wanted.macs, wanted.strides), case


def test_a_recording_is_cut_into_the_windows_that_predict_cuts(folder: Path, run: Path) -> None:
    samples = make_clips([8000 * 5], seed=3)[0][0]
    wanted, said = load(run)(samples, 8000), Runner(folder)(samples.numpy())
    assert wanted.windows is not None
    assert len(wanted.windows) > 3
    assert said["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-4)
    assert said["macs"] == wanted.macs


def test_runner_and_package_know_the_same_format() -> None:
    assert (shipped.FORMAT, shipped.VERSION, shipped.MANIFEST) == (ONNX, VERSION, MANIFEST)


def test_a_budget_is_met_by_the_table_of_the_manifest(copy: Path, tones: Path) -> None:
    change(copy, lambda manifest: manifest.update(budgets=[[-1000.0, 0.5], [1000.0, 1.0]]))
    clip = min((tones / "low").iterdir())
    cheap, dear = (load(copy, budget=budget)(clip) for budget in (0.5, 1.0))
    assert cheap.macs < dear.macs


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda it: it.update(format="other"), "format='hopscotch model'"),
        (lambda it: it.update(version=2), "format='hopscotch onnx' and version=1"),
        (lambda it: it["files"].update({"../evil.onnx": "0"}), "files by plain names"),
        (lambda it: it["files"].update({"stem.onnx": "0" * 64}), "was changed or cut"),
        (lambda it: it["frontend"].update(fft=2**40), "a whole number from 1 to 131072 as fft"),
        (lambda it: it.update(classes=[1]), "texts as classes"),
        (lambda it: it.update(plan=[]), "maps at frontend, windows and plan"),
        (lambda it: it["files"].pop("stem.onnx"), "each graph of its plan"),
        (lambda it: it["plan"]["stages"][0].update(depth=10**9), "a plan as this version"),
        (lambda it: it["plan"]["stages"][0].pop("sees"), "a plan as this version"),
        (lambda it: it["plan"]["around"].append(1), "a plan as this version"),
        (lambda it: it["plan"]["stages"][0].update(memory="x"), "a plan as this version"),
        (lambda it: it.update(kind="tags", thresholds=[0.5]), "a threshold for each class"),
        (lambda it: it.update(bias="x"), "a number as bias"),
        (lambda it: it.pop("budgets"), "as a run of this version writes it"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(copy: Path, edit: Callable[..., None], message: str) -> None:
    change(copy, edit)
    with pytest.raises(ValueError, match=re.escape(message)):
        load(copy)


def test_a_graph_that_was_changed_or_is_a_link_is_refused(copy: Path) -> None:
    stem = copy / "stem.onnx"
    content = stem.read_bytes()
    stem.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"stem.onnx must be as manifest.json says: it was changed or cut"):
        load(copy)
    stem.unlink()
    stem.symlink_to("head.onnx")
    with pytest.raises(ValueError, match=r"stem.onnx must be a file, and no link"):
        load(copy)


@pytest.mark.parametrize(("content", "message"), [(b"graph", "onnxruntime reads"), (b"location", "another file")])
def test_a_graph_of_a_stranger_refers_to_no_file(copy: Path, content: bytes, message: str) -> None:
    (copy / "stem.onnx").write_bytes(content)
    change(copy, lambda manifest: manifest["files"].update({"stem.onnx": hash_of(copy / "stem.onnx")}))
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_the_folder_is_new(run: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="out must be a new folder, got"):
        export_onnx(run, folder)
    assert restore(run).model.decides


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("dense", "skip_attention")])
def test_a_trace_of_a_model_that_decides_is_refused(name: str) -> None:
    restored, (waveform, lengths) = made(name)
    with pytest.raises(ValueError, match="hopscotch export RUN --format onnx"):
        torch.jit.trace(restored.model, (waveform, lengths))


@pytest.mark.parametrize(("name", "message"), NOT_SHIPPED.items())
def test_a_model_in_pieces_or_with_exits_is_not_exported_yet(name: str, message: str, tmp_path: Path) -> None:
    restored, _ = made(name)
    with pytest.raises(ValueError, match=message):
        write(restored, tmp_path / "model")
