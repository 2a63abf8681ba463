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
import soundfile
import torch
from omegaconf import OmegaConf

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from hopscotch import cli, load
from hopscotch.build import build_model
from hopscotch.detection import find
from hopscotch.models.always_on import AlwaysOn
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.cascade import Cascade
from hopscotch.models.exits import Ladder
from hopscotch.models.heads import DetectionHead
from hopscotch.models.stage0 import Stage0
from hopscotch.restore import Restored, restore
from hopscotch.shared import MANIFEST, ONNX, VERSION, hash_of
from hopscotch.ship import runner as shipped
from hopscotch.ship.engine import OnnxModel
from hopscotch.ship.export import export_onnx, write
from hopscotch.ship.graphs import cut
from hopscotch.ship.parts import TIME
from hopscotch.ship.runner import Runner
from hopscotch.stream import Stream
from tests.small_models import decide_at_random, make_clips
from tests.test_always_on import RATE, noise
from tests.test_stream import CLASSES, chunks, ready
from tests.tiny import MODELS, composed
from tests.trained import write_listener, write_run

WITH_EXITS = ("early_exit", "exits_by_a_rule", "exits_over_time", "slimmable", "cascade")
SAMPLES = [3000, 1700, 2345, 90]  # at 8 kHz
SIZE = ("data.sample_rate=8000", "model.dim=16", "model.heads=2", "model.depth=4")
SHORT = [f"model.stage.{size}" for size in ("before=0", "after=0", "context=0.04", "longest=0.1")]
EVENTS = ("task=detect", "frontend=log_mel_stream")
VARIANTS = {
    "image_stem": ("dense", "model.stem_channels=[4,8]", "model.positions=convolutional", "model.pooling=maxima"),
    "gated_jumps": ("skip_transformer", "model.open_rate=0.3", "model.stem_layers=1"),
    "gated_adapters": ("skip_layer", "model.open_rate=0.3"),
    "planned_strides": ("learned_skip", "model.encoder.gate_input=encoder", "model.open_rate=null"),
    "by_state": ("skip_transformer", "model.encoder.policy.sees=state", "model.encoder.jump.rule=literal"),
    "no_memory": ("skip_transformer", "model.encoder.jump.mix=none"),
    "short_spans": ("always_on", *SHORT),
    "woken_jumps": ("jump_attention", "+model/parts@model.stage=stage", *SHORT, "model.open_rate=null"),
    "events": ("jump_attention", *EVENTS),
    "events_in_spans": ("always_on", *EVENTS, *SHORT),
    "exits_by_a_rule": ("early_exit", "model.exits.rule=learned", "model.stem_layers=1", "model.encoder.first=3"),
    "exits_over_time": ("exits_every_layer", "model.exits.inside=1", "model.positions=convolutional"),
    "widths_of_images": ("slimmable", "model.stem_channels=[4,8]", "model.widths.rule=learned", "model.stem_layers=1"),
    "limited": ("always_on", *SHORT, "model.stage.ceiling=0.4", "frontend=log_mel_stream"),
}
CASES = {name: (name,) for name in MODELS} | VARIANTS | {"cascade": ("dense",)}


def made(case: str) -> tuple[Restored, tuple[torch.Tensor, torch.Tensor]]:
    """A model whose decisions differ from clip to clip, and the clips."""
    name, *changes = CASES.get(case, (case,))
    cfg = composed(f"model={name}", *SIZE, *changes)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    if case == "cascade":
        small = composed("model=skip_attention", *SIZE, "model.dim=8", "model.depth=2", "model.stem_channels=[4,8]")
        model = Cascade(name=case, stages=[build_model(small, 3), model])
    assert isinstance(model, AudioModel)
    clips = make_clips(SAMPLES)
    decide_at_random(model, *clips)
    if isinstance(model, Ladder):
        model.exits.thresholds.add_(1e-3)  # from the score of a clip to between two of them
    if isinstance(model, AlwaysOn):
        open_half(model, *clips)
    return Restored(cfg, model.eval(), ["a", "b", "c"], 0.2, 0.4, []), clips


@torch.no_grad()
def open_half(model: AlwaysOn, waveform: torch.Tensor, lengths: torch.Tensor) -> None:
    """Draw scores of stage 0 that open half of the time, a few nats apart."""
    assert isinstance(model.stage, Stage0)
    layer = model.stage.output
    torch.nn.init.normal_(layer.weight)
    scores = model(waveform, lengths).stage
    assert scores is not None
    factor = 3 / float(scores.std())
    layer.bias.copy_(factor * (layer.bias - scores.mean()))
    layer.weight.mul_(factor)


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
            assert np.abs(scores - restored.model.head.scores(output.logits)[0].numpy()).max() <= 1e-4
            there = output.trace
            assert (trace.macs, dense_macs) == (there.macs.item(), there.dense_macs.item())
            assert [trace.strides, trace.jumps] == [there.strides[0].tolist(), there.jumps[0].tolist()]
            assert trace.awake == pytest.approx(None if there.awake is None else there.awake.item())
            left = there.decisions.exits
            assert trace.exit == (None if left is None else left.item())
            assert [trace.visited, trace.landed] == [there.visited[0].tolist(), there.landings[0].tolist()]


@pytest.mark.parametrize("case", ["learned_skip", "gated_adapters", "jump_attention", "image_stem", *WITH_EXITS])
def test_each_graph_computes_what_was_traced_at_any_length(case: str, tmp_path: Path) -> None:
    restored, _ = made(case)
    runner = Runner(write(restored, tmp_path / "model"))
    for name, graph in cut(restored.model).graphs.items():
        for time in (2, TIME, 61):
            inputs = dict(graph.inputs)
            for key, value in inputs.items():
                if key in ("x", "start", "around", "normed", "power"):
                    inputs[key] = torch.rand(1, time, value.shape[2])
                if key == "image":
                    inputs[key] = torch.rand(1, value.shape[1], time, value.shape[3])
            if "keys" in inputs:
                inputs["keys"] = torch.arange(0, time, 3)
            with torch.no_grad():
                wanted = graph.module.eval()(*inputs.values())
            found = runner._graph(name, **{key: value.numpy() for key, value in inputs.items()})
            for there, here in zip(wanted if isinstance(wanted, tuple) else (wanted,), found, strict=True):
                assert np.abs(here.astype(np.float64) - there.double().numpy()).max() <= 1e-4, name


def test_the_cases_decide() -> None:
    """Otherwise the tests above would hold of graphs that are never left out."""
    for case in ("learned_skip", "skip_layer", "by_state", "gated_jumps", "short_spans", "woken_jumps", *WITH_EXITS):
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


def noise_of(seconds: float) -> np.ndarray:
    """Noise whose level changes every second."""
    generator, rate = np.random.default_rng(0), 8000
    levels = np.repeat(generator.uniform(0.0, 0.3, int(seconds)), rate)
    return (levels * generator.normal(0.0, 1.0, len(levels))).clip(-0.9, 0.9).astype(np.float32)


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
def test_every_model_runs_in_a_fresh_environment(tmp_path: Path, tones: Path, listener: Path) -> None:
    """With numpy, onnxruntime and soundfile alone; they come from a package registry."""
    python = tmp_path / "environment" / "bin" / "python"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python.parent.parent)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-c", "constraints.txt"]
    subprocess.run([*pip, "numpy", "onnxruntime", "soundfile"], cwd=root, check=True)
    clip = min((tones / "high").iterdir())
    heard = export_onnx(listener, tmp_path / "listener")
    soundfile.write(tmp_path / "a.wav", noise_of(20.0), 8000)
    command = [str(python), "-I", str(heard / "runner.py"), "--listen", str(tmp_path / "a.wav")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    stream, samples = load(listener).stream(), soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    events = [(round(one.start, 3), round(one.end, 3), one.label) for one in stream.feed(samples) + stream.end()]
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(one["start"], one["end"], one["label"]) for one in lines] == events
    for case in CASES:
        restored, _ = made(case)
        folder = write(restored, tmp_path / case)
        ended = subprocess.run(
            [str(python), "-I", str(folder / "runner.py"), str(clip)], capture_output=True, text=True, check=True
        )
        wanted, said = load(folder)(clip), json.loads(ended.stdout)
        assert (said["label"], said["macs"], said["strides"]) == (wanted.label, wanted.macs, wanted.strides), case


def test_events_are_listed_with_the_thresholds_of_the_head(tmp_path: Path) -> None:
    """Of all of a recording, however long the clips of the training data were."""
    restored, _ = made("events")
    head, samples = restored.model.head, make_clips([8000 * 3], seed=3)[0]
    assert isinstance(head, DetectionHead)
    torch.nn.init.normal_(head.output.weight)
    with torch.no_grad():
        said = restored.model(samples, torch.tensor([samples.shape[1]])).logits.softmax(dim=2)[0, :, :3]
    head.thresholds.copy_(said.quantile(0.8, dim=0).expand(2, -1))
    found = find(said.numpy(), head.thresholds[-1].double().numpy(), head.step)
    events = Runner(write(restored, tmp_path / "model"))(samples[0].numpy())["events"]
    assert len(events) > 3
    wanted = sorted((start, end, restored.classes[int(label)]) for start, end, label in found.spans)
    assert sorted((one["start"], one["end"], one["label"]) for one in events) == wanted
    assert sorted(one["confidence"] for one in events) == pytest.approx(sorted(found.confidence), abs=1e-4)


@pytest.mark.parametrize("changes", [{}, {"longest": 1.0, "ceiling": 0.3}, {"before": 0.0, "after": 0.0}])
@pytest.mark.parametrize(("most", "seed"), [(400, 0), (4000, 1), (40_000, 2)])
def test_a_stream_of_graphs_says_what_one_of_torch_does(
    changes: dict[str, float], most: int, seed: int, tmp_path: Path
) -> None:
    model, waveform = ready(**changes), noise(31.3)[0]
    cfg = OmegaConf.create({"data": {"sample_rate": RATE}})
    write(Restored(cfg, model, CLASSES, 60.0, 60.0, []), tmp_path / "model")
    rows: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    there, here = Stream(model, CLASSES, rows[0].append), OnnxModel(tmp_path / "model").stream(rows[1].append)
    events = [stream.feed(waveform[0].numpy()) + stream.end() for stream in (there,)]
    parts = waveform[0].split(chunks(waveform.shape[1], most, seed))
    events.append([event for chunk in parts for event in here.feed(chunk.numpy())] + here.end())
    assert len(events[0]) > 0
    assert [event[:3] for event in events[1]] == [event[:3] for event in events[0]]
    wanted, found = (np.concatenate(parts) for parts in rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert 0 < here.awake_share == there.awake_share < 1


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_listener(tmp_path_factory.mktemp("listener"))


def test_the_runner_hears_standard_input_as_listen_does(
    listener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = export_onnx(listener, tmp_path / "model"), tmp_path / "a.wav"
    samples = noise_of(20.0)
    soundfile.write(file, samples, 8000, subtype="PCM_16")
    lines = []
    for place, engine in ((listener, "torch"), (folder, "onnx")):
        cli.main(["listen", str(place), "--file", str(file), f"engine={engine}"])
        lines.append(capsys.readouterr().out.splitlines())
    raw = (samples * 2**15).round().astype("<i2").tobytes()
    without = "import runner, sys; sys.modules['soundfile'] = None; runner.main(['--listen', sys.argv[1]])"
    for words, given in (
        (["runner.py", "--listen", "-"], raw),
        (["runner.py", "--listen", "-"], file.read_bytes()),
        (["-c", without, str(file)], b""),
    ):
        ended = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, input=given, check=True)
        lines.append(ended.stdout.decode().splitlines())
    there, here = (load(place)(file) for place in (listener, folder))
    assert (here.label, here.macs) == (there.label, there.macs)
    assert here.probabilities == pytest.approx(there.probabilities, abs=1e-4)
    assert len(lines[0]) > 3
    assert "--listen -" in (folder / "README.md").read_text()
    events = [[json.loads(line) for line in said] for said in lines]
    for said in events[1:]:
        assert [(one["start"], one["end"], one["label"]) for one in said] == [
            (one["start"], one["end"], one["label"]) for one in events[0]
        ]
        assert [one["confidence"] for one in said] == pytest.approx([one["confidence"] for one in events[0]], abs=2e-3)


def test_only_a_model_that_is_always_on_hears_a_stream(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs model=always_on with task=detect, got model=jump_attention, which say"):
        Runner(folder).stream()
    restored, _ = made("events_in_spans")
    restored.model.frontend.level = "clip"
    with pytest.raises(ValueError, match=r"a stream needs frontend\.level=none .*, got clip"):
        Runner(write(restored, tmp_path / "model")).stream()


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
        (lambda it: it["plan"]["head"].pop("pool"), "a plan as this version"),
        (lambda it: it["plan"].update(spans={"unit": 6}), "a plan as this version"),
        (lambda it: it["frontend"].update(level="loud"), "clip or none as level"),
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


def test_stages_that_hear_with_other_frames_are_not_joined(tmp_path: Path) -> None:
    restored, _ = made("cascade")
    assert isinstance(restored.model, Cascade)
    restored.model.models[0].frontend.hop += 1
    with pytest.raises(ValueError, match="must hear with the same window and hop to be exported as ONNX"):
        write(restored, tmp_path / "model")


@pytest.mark.parametrize(
    ("key", "value"),
    [("threshold", None), ("temperature", 0.0), ("weight", float("inf")), ("fixed", -1), ("costs", [[1, 2]])],
)
def test_a_manifest_of_exits_is_checked(key: str, value: object) -> None:
    plan = json.loads(json.dumps(cut(made("early_exit")[0].model).plan))
    assert shipped.is_plan(plan)
    plan["exits"]["rungs"][0][key] = value
    assert not shipped.is_plan(plan)
