"""Write a trained model as graphs of ONNX with a manifest and a runner, for a machine without torch.

manifest.json    sizes, classes, front end, how graphs follow each other, costs, table of budgets, hashes of all files
*.onnx           graphs without control flow (ship/graphs.py), for clips of any length
runner.py        what decides between them (ship/runner.py): numpy and onnxruntime are all that it needs
README.md        how to run it
"""

import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hopscotch import __version__
from hopscotch.config.errors import absent_package
from hopscotch.data.clips import some
from hopscotch.data.windows import usual_window
from hopscotch.files import write_file
from hopscotch.models.heads import DetectionHead, TagHead
from hopscotch.plain import shown
from hopscotch.restore import Restored, restore
from hopscotch.shared import MANIFEST, ONNX, VERSION, hash_of
from hopscotch.ship.graphs import KINDS, Cut, Graph, cut
from hopscotch.training.checkpoint import BUDGETS

OPSET = 18
RUNNER, CARD = "runner.py", "README.md"
PACKAGES = ("onnx", "onnxruntime")  # of the extra `onnx`
# The axis of any length, by name.
DYNAMIC = {"power": 1, "bands": 1, "x": 1, "y": 1, "rows": 1, "start": 1, "around": 1, "normed": 1, "keys": 0}
DYNAMIC |= {"image": 2, "image_y": 2}
# Parts of names of graphs that stay in float32: they cost next to nothing.
DECIDES = ("bands", "hear", "gate", "plan", "choose", "land", "rule")

CLIPS = """# {model}, {kind}

Hopscotch {hopscotch} wrote this model as graphs of ONNX. It hears {sample_rate} Hz and knows {names}.
`runner.py` decides what is skipped, and needs numpy and onnxruntime alone; soundfile reads more than 16-bit WAV files.

```
python runner.py clip.wav
```

prints an object of JSON for each file. In a program:

```python
from runner import Runner

runner = Runner("FOLDER")  # this one
said = runner(samples)  # floats of one channel at {sample_rate} Hz
print(said["label"], said["compute"])
```
"""
STREAMS = """
It hears audio without end, too, and says each event as soon as it is over:

```
python runner.py --listen recording.wav
ffmpeg -i URL -ac 1 -ar {sample_rate} -f s16le - | python runner.py --listen -
```

```python
stream = runner.stream()
for event in stream.feed(samples):  # any number of samples, again and again; stream.end() has what is left
    print(event.start, event.end, event.label, event.confidence)
```
"""


def refuse_without_onnx(what: str) -> None:
    """Refuse what was asked for where the extra is not installed."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise absent_package(what, package, "onnx")


def export_onnx(
    run: Path, out: Path, ckpt: Path | None = None, trust: Sequence[str] = (), *, int8: bool = False
) -> Path:
    """Write the model of a run's best checkpoint, or of `ckpt`, to the new folder `out`.

    `int8` has the weights of products in 8 bits, and rounds their inputs as they come.

    Raises:
        ValueError: If `out` is there already, the run cannot be restored, or a part of its model is none of ours.
    """
    refuse_without_onnx("format=onnx")
    if out.exists() or out.is_symlink():
        raise ValueError(f"out must be a new folder, got {shown(out)}, which is there already.")
    return write(restore(run, ckpt, trust), out, int8=int8)


def write(restored: Restored, out: Path, *, int8: bool = False) -> Path:
    """Write a model to the new folder `out`."""
    parts = cut(restored.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}_") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for name, graph in parts.graphs.items():
            path = folder / f"{name}.onnx"
            trace(graph, path)
            if int8 and not any(part in name for part in DECIDES):
                in_eight_bits(path)
        (folder / RUNNER).write_bytes(Path(__file__).with_name(RUNNER).read_bytes())
        manifest = described(restored, parts) | {"int8": int8}
        write_file(folder / CARD, card(manifest))
        manifest["files"] = {path.name: hash_of(path) for path in sorted(folder.iterdir())}
        write_file(folder / MANIFEST, json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        os.replace(folder, out)
    return out


def trace(graph: Graph, path: Path) -> None:
    """Write what a module does with its examples, for examples of any length."""
    names = [*graph.inputs, *graph.outputs]
    with quiet_tracer():
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            path,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={name: {DYNAMIC[name]: "time"} for name in names if name in DYNAMIC},
            opset_version=OPSET,
            dynamo=False,  # needs onnx alone, and keeps lengths free
        )


@contextmanager
def quiet_tracer() -> Iterator[None]:
    """Silence that the tracer is the older one, and that it keeps what Python decides: no graph has such a decision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_eight_bits(path: Path) -> None:
    """Quantise the products of a graph in place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # 7 bits of 8: sums of products of 8 bits overflow on processors without the newer instructions.
    options: dict[str, Any] = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
    logging.disable(logging.WARNING)  # it advises to infer shapes first, which products do not need
    try:
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul"], **options)
    finally:
        logging.disable(logging.NOTSET)


def described(restored: Restored, parts: Cut) -> dict[str, Any]:
    """Describe a model for the runner."""
    model, sample_rate = restored.model, int(restored.cfg.data.sample_rate)
    usual = usual_window(restored.mean_seconds)
    seconds = {"hop": usual / 2, "window": usual, "longest": max(usual, restored.longest_seconds or 0.0)}
    front = model.frontend
    return {
        "format": ONNX,
        "version": VERSION,
        "hopscotch": __version__,
        "model": model.name,
        "decides": model.decides,
        "kind": KINDS[type(model.head)],
        "classes": restored.classes,
        "thresholds": model.head.thresholds.tolist() if isinstance(model.head, TagHead | DetectionHead) else None,
        "sample_rate": sample_rate,
        "frontend": {
            "window": front.window,
            "fft": front.fft,
            "hop": front.hop,
            "bands": front.num_mels,
            "level": front.level,
        },
        "windows": {name: round(value * sample_rate) for name, value in seconds.items()},
        "clip_seconds": {"mean": restored.mean_seconds, "longest": restored.longest_seconds},
        "bias": model.decision_bias.item(),
        BUDGETS: restored.budgets,
        "plan": parts.plan,
    }


def card(manifest: dict[str, Any]) -> str:
    """Say in Markdown how to run a model."""
    is_heard = bool(
        manifest["kind"] == "events" and manifest["plan"]["spans"] and manifest["frontend"]["level"] == "none"
    )
    return (CLIPS + STREAMS * is_heard).format(**manifest, names=shown(some(manifest["classes"])))
