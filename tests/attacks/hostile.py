"""Hostile folders and files, one small change to a good run each, in classes."""

import base64
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from hopscotch.training.checkpoint import MAX_CLASSES
from hopscotch.training.whole import hash_file
from tests.attacks.guard import SECRET

# Those in C are ten times as fast, and not in every build.
SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SAFE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Change = Callable[[Path, Path], object]  # of the run's folder; the second is a folder where nothing may happen


class Case(NamedTuple):
    kind: str
    name: str
    change: Change
    commands: tuple[str, ...] = ("predict",)
    refused: bool = True  # with exit code 1 or 2 and one sentence; else the command does its work all the same


LOADING = ("predict", "evaluate")  # what builds a model
ALL = ("predict", "evaluate", "report")


def text(name: str, content: str | bytes) -> Change:
    def change(run: Path, outside: Path) -> None:
        written = content.encode() if isinstance(content, str) else content
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(written.replace(b"OUTSIDE", os.fsencode(outside)))

    return change


GONE = object()  # a value that takes its key out


def node(key: str, value: Any) -> Change:
    """A key of config.yaml set to what is given, or taken out; OUTSIDE stands for the folder outside."""

    def change(run: Path, outside: Path) -> None:
        file = run / "config.yaml"
        config = yaml.load(file.read_text(), SAFE_LOADER)
        *parents, last = key.split(".")
        below = config
        for parent in parents:
            below = below[parent]
        if value is GONE:
            del below[last]
        else:
            below[last] = value
        file.write_text(yaml.dump(config, Dumper=SAFE_DUMPER, sort_keys=False).replace("OUTSIDE", str(outside)))

    return change


def appended(content: str) -> Change:
    def change(run: Path, outside: Path) -> None:
        with (run / "config.yaml").open("a") as file:
            file.write(content.replace("OUTSIDE", str(outside)))

    return change


SHELL = {"command": ["sh", "-c", "id > OUTSIDE/canary"]}
PROCESS = {"_target_": "scripts.studies.bench.supply._process", **SHELL}


def gadgets() -> Iterator[Case]:
    """Functions and classes of our own, as far as an argument could do harm (faults.md, 4)."""
    nodes = {
        "shell": PROCESS,
        "shell_by_its_old_name": {**PROCESS, "_target_": "hopscotch.bench.supply._process"},
        "copy": {"_target_": "hopscotch.training.callbacks._copy", "path": "/etc/hostname", "to": "OUTSIDE/canary"},
        "run_job": {"_target_": "scripts.studies.runner.run_job", "folder": "OUTSIDE", "job": ["x=1"]},
        "ledger": {"_target_": "hopscotch.sweep.append_ledger", "folder": "OUTSIDE", "row": {"a": 1}},
        "claim": {"_target_": "hopscotch.run.claim", "run": "OUTSIDE", "cfg": {}, "overrides": []},
        "write_summary": {"_target_": "hopscotch.report.summary.write_summary", "run_folder": "OUTSIDE", "status": "x"},
        "metrics_log": {"_target_": "hopscotch.report.metrics_log.MetricsLog", "save_dir": "OUTSIDE"},
        "make": {"_target_": "hopscotch.build.make", "node": PROCESS},
        "compose": {"_target_": "hopscotch.config.compose.compose", "config_dir": "OUTSIDE"},
        "continue_in_venv": {"_target_": "hopscotch.system.continue_in_venv"},
        "imported_torch": {"_target_": "hopscotch.frontend.torch.load", "f": "OUTSIDE/canary", "weights_only": False},
        "imported_os": {"_target_": "hopscotch.system.os.system", "command": "id > OUTSIDE/canary"},
        "imported_subprocess": {"_target_": "hopscotch.system.subprocess.run", "args": ["touch", "OUTSIDE/canary"]},
        "class_of_another_place": {"_target_": "hopscotch.frontend.LogMel"},
        "predict_load": {"_target_": "hopscotch.predict.load", "run": "OUTSIDE"},
        "method": {"_target_": "hopscotch.models.stack.Stack.static_parts"},
        "module": {"_target_": "hopscotch.models.stack"},
    }
    for name, value in nodes.items():
        yield Case("gadget", f"encoder_{name}", node("model.encoder", value), LOADING)
    for place in ("data", "augment.waveform", "augment.spectrogram", "frontend", "model", "task", "trainer"):
        yield Case("gadget", f"{place}_shell", node(place, PROCESS), LOADING)
    for place in ("optimizer", "scheduler"):
        names = ("os.system", "hopscotch.run.train", "evil.Kind", "lightning.pytorch.callbacks.ModelCheckpoint")
        for name in (PROCESS["_target_"], *names):
            yield Case("gadget", f"{place}_{name}", node(f"{place}._target_", name), LOADING)
    yield Case("gadget", "plugin_of_the_trainer", node("trainer.plugins", PROCESS), LOADING)
    yield Case("gadget", "folder_of_the_trainer", node("trainer.default_root_dir", "OUTSIDE"), LOADING, refused=False)
    for key in ("logger", "unknown"):  # what was added for training is passed over
        yield Case("gadget", f"{key}_of_the_trainer", node(f"trainer.{key}", True), LOADING, refused=False)
    for place in ("data", "augment.waveform"):
        yield Case("gadget", f"report_{place}_shell", node(place, PROCESS), ("report",), refused=False)
    for place in ("model.encoder.jump", "model.encoder.gate", "model.encoder.policy", "compute", "gate", "size"):
        yield Case("gadget", f"{place}_shell", node(f"{place}._target_", PROCESS["_target_"]), LOADING)
    yield Case("gadget", "deep_in_a_list", node("model.encoder.strides", [[{"deep": [PROCESS]}]]), LOADING)
    stages = [{"frontend": PROCESS, "gate": {}, "model": {"encoder": PROCESS}} for _ in range(2)]
    for place, value in {"exits": PROCESS, "stages": [PROCESS, PROCESS]}.items():
        yield Case("gadget", f"{place}_shell", node(f"model.{place}", value), LOADING)
    yield Case("gadget", "stage_of_a_cascade_shell", node("model.stages", stages), LOADING)
    yield Case("gadget", "callback_shell", node("callbacks.x", PROCESS), ALL, refused=False)
    yield Case("gadget", "logger_shell", node("logger.x", PROCESS), refused=False)


FOREIGN = {
    "os.system": {"command": "id > OUTSIDE/canary"},
    "builtins.eval": {"_args_": ["open('OUTSIDE/canary', 'w')"]},
    "builtins.exec": {"_args_": ["open('OUTSIDE/canary', 'w')"]},
    "builtins.open": {"file": "OUTSIDE/canary", "mode": "w"},
    "subprocess.Popen": {"args": ["touch", "OUTSIDE/canary"]},
    "subprocess.run": {"args": ["touch", "OUTSIDE/canary"]},
    "torch.load": {"f": "OUTSIDE/canary", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": "OUTSIDE", "model": "x", "source": "local"},
    "torch.utils.collect_env.run": {"command": "id > OUTSIDE/canary"},
    "torch.save": {"obj": 1, "f": "OUTSIDE/canary"},
    "torch.nn.Linear": {"in_features": 1, "out_features": 1},
    "numpy.load": {"file": "OUTSIDE/canary", "allow_pickle": True},
    "numpy.save": {"file": "OUTSIDE/canary", "arr": 1},
    "shutil.rmtree": {"path": "OUTSIDE"},
    "shutil.copyfile": {"src": "/etc/hostname", "dst": "OUTSIDE/canary"},
    "pathlib.Path.touch": {"self": "OUTSIDE/canary"},
    "os.mkdir": {"path": "OUTSIDE/canary"},
    "os.makedirs": {"name": "OUTSIDE/canary"},
    "importlib.import_module": {"name": "antigravity"},
    "runpy.run_path": {"path_name": "OUTSIDE/canary"},
    "hydra.utils.instantiate": {"config": PROCESS},
    "hydra.utils.get_class": {"path": "os.system"},
    "webbrowser.open": {"url": "http://localhost/x"},
    "urllib.request.urlopen": {"url": "http://localhost/x"},
    "pickle.loads": {"_args_": ["x"]},
    "lightning.pytorch.Trainer": {},
    "lightning.pytorch.loggers.TensorBoardLogger": {"save_dir": "OUTSIDE"},
    "": {},
    ".": {},
    "hopscotch": {},
    "hopscotch..models.stack.Stack": {},
    " hopscotch.models.stack.Stack": {},
    "hopscotch.models.stack.Stack\n": {},
    "HOPSCOTCH.models.stack.Stack": {},
    "hopscotch.models.stack.Stack.__init__.__globals__.get": {},
    "hopscotch.models.stack.Stack.__class__": {},
}


def foreign() -> Iterator[Case]:
    for target, arguments in FOREIGN.items():
        change = node("model.encoder", {"_target_": target, **arguments})
        yield Case("foreign", f"{target!r}", change)
    for value in (5, None, True, [PROCESS], {"_target_": "os.system"}, 1.5):
        yield Case("foreign", f"target_is_{type(value).__name__}", node("model.encoder._target_", value), LOADING)
    yield Case("foreign", "data_in_the_run_itself", node("data._target_", "evil.Source"), LOADING)


def specials() -> Iterator[Case]:
    for key, value in {
        "_args_": ["x"],
        "_partial_": True,
        "_convert_": "object",
        "_recursive_": False,
        "_name_": "x",
        "__class__": "os.system",
        "_target": "x",
    }.items():
        places = ("model.encoder", "frontend", "data") if key == "_args_" else ("model.encoder",)
        for place in places:
            yield Case("special", f"{place}.{key}", node(f"{place}.{key}", value), LOADING)
    yield Case("special", "partial_trainer", node("trainer._partial_", True), LOADING)
    yield Case("special", "hydra_instantiate_deep", node("model.encoder.jump._args_", [PROCESS]), LOADING)


def interpolations() -> Iterator[Case]:
    words = {
        "env": "${oc.env:HOPSCOTCH_SECRET}",
        "env_inside": "/data/${oc.env:HOPSCOTCH_SECRET}/x",
        "decode": "${oc.decode:${oc.env:HOPSCOTCH_SECRET}}",
        "create": "${oc.create:{_target_: os.system}}",
        "reference": "${seed}",
        "relative": "${.root}",
        "now": "${now:%Y}",
        "groups": "${groups:}",
        "unknown": "${nobody:x}",
        "nested": "${${seed}}",
        "open": "${",
        "cycle": "${data.root}",
    }
    for name, word in words.items():
        yield Case(
            "interpolation", f"data.root_{name}", node("data.root", word), ALL if name == "env" else ("predict",)
        )
    for key in (
        "model.name",
        "run_dir",
        "callbacks.dashboard.hparams.model",
        "model.encoder._target_",
        "data.batch_size",
    ):
        yield Case("interpolation", f"{key}_env", node(key, words["env"]), ALL)
    yield Case("interpolation", "in_a_key", node("compute", {words["env"]: 1}), ALL)
    yield Case("interpolation", "in_a_list", node("augment.waveform.speeds", [words["env"]]), ALL)


def yamls() -> Iterator[Case]:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    files: dict[str, str | bytes] = {
        "laughs": laughs,
        "brackets": "a: " + "[" * 20_000,
        "braces": "{a: " * 20_000,
        "indents": "".join(" " * i + "a:\n" for i in range(900)),
        "dashes": "- " * 20_000,
        "alias_to_itself": "a: &a [*a]\n",
        "base_60": "a: " + ":".join(["59"] * 30_000),
        "huge": "a: '" + "x" * 2**21 + "'",
        "many_keys": "".join(f"k{i}: 0\n" for i in range(40_000)),
        "cut": "seed: 0\nmodel:\n  encoder: {_target_: hopscotch.models.stack.Sta",
        "binary": bytes(range(256)) * 20,
        "utf_16": "seed: 0\n".encode("utf-16"),
        "zeros": b"\0" * 5000,
        "empty": "",
        "comment": "# nothing\n",
        "list": "- seed\n- model\n",
        "text": "hello\n",
        "number": "3\n",
        "null": "null\n",
        "two_documents": "seed: 0\n---\nseed: 1\n",
        "escape": "model: \x1b]0;PWNED\x07 : :\n",
        "tabs": "model:\n\tencoder: 1\n",
        "json_bomb": json.dumps({"a": [[[[[]]]]] * 1000}),
        "pickle": pickle.dumps({"seed": 0}),
        "zip": b"PK\x03\x04" + b"\0" * 100,
    }
    for name, content in files.items():
        is_a_map = name in ("base_60", "json_bomb")  # of no keys of ours, whose report is an empty one
        commands = LOADING if is_a_map else (*ALL, "start") if name in ("alias_to_itself", "binary") else ALL
        yield Case("yaml", name, text("config.yaml", content), commands)
    for name, content in {
        "python_apply": "x: !!python/object/apply:os.system ['id > OUTSIDE/canary']\n",
        "python_new": "x: !!python/object/new:os.system ['id > OUTSIDE/canary']\n",
        "python_name": "x: !!python/name:os.system\n",
        "python_module": "x: !!python/module:os\n",
        "python_tuple": "x: !!python/tuple [1, 2]\n",
        "path": "x: !!python/object/apply:pathlib.PosixPath [OUTSIDE]\n",
        "binary": "x: !!binary aGVsbG8=\n",
        "set": "x: !!set {a, b}\n",
        "own_tag": "x: !evil {a: 1}\n",
        "string": "x: !!str 5\n",
        "anchor": "x: &anchor 1\n",
        "merge": "x: &m {a: 1}\ny: {<<: *m}\n",
        "key_twice": "seed: 1\n",
        "key_is_a_list": "? [a, b]\n: 1\n",
    }.items():
        yield Case("yaml", f"tag_{name}", appended(content), ALL)


def sizes() -> Iterator[Case]:
    for key, value in {
        "model.encoder.depth": 10_000_000,
        "model.encoder.attention_depth": 10**9,
        "model.encoder.dim": 10**9,
        "model.encoder.num_heads": 10**9,
        "model.encoder.ffn_ratio": 1e9,
        "model.encoder.expansion": 10**9,
        "model.encoder.convolution_width": 10**9 + 1,
        "model.encoder.first": 10**9,
        "model.encoder.gate.num_keys": 10**9,
        "model.encoder.gate.hidden_ratio": 1e9,
        "model.dim": 10**9,
        "model.depth": 10**30,
        "frontend.num_mels": 10**9,
        "frontend.window_seconds": 1e9,
        "frontend.hop_seconds": 1e-12,
        "frontend.sample_rate": 10**12,
        "data.batch_size": 10**12,
        "data.num_workers": 10**6,
        "data.cache_gib": 1e12,
        "data.sample_rate": 10**12,
        "optimizer.lr": float("nan"),
        "frontend.range_db": float("inf"),
        "seed": 10**100,
        "augment.waveform.speeds": [1.0] * 20_000,
        "augment.waveform.silence_seconds": 1e12,
        "data.root": "x" * 100_000,
    }.items():
        yield Case("size", f"{key}", node(key, value), LOADING)
    # Within every limit by itself, and together more than a machine has: more than the checkpoint can hold.
    together = {"model.encoder.dim": 8192, "model.encoder.depth": 256, "model.dim": 8192}
    yield Case("size", "together", several(node(key, value) for key, value in together.items()))
    yield Case("size", "wide_model", node("model.dim", 8192))
    wide = several([node("frontend.num_mels", 1024), node("frontend.window_seconds", 8.0)])
    yield Case("size", "wide_frontend", wide)


def several(changes: Any) -> Change:
    each = list(changes)

    def change(run: Path, outside: Path) -> None:
        for one in each:
            one(run, outside)

    return change


def wrong_types() -> Iterator[Case]:
    for key in ("model", "model.encoder", "data", "task", "trainer", "frontend", "augment", "compute", "gate"):
        for value in (5, "text", [1], None):
            yield Case("type", f"{key}_is_{type(value).__name__}", node(key, value))
        yield Case("type", f"{key}_is_missing", node(key, GONE), LOADING)
    for key, value in {
        "model.encoder.depth": "three",
        "model.encoder.dim": [16],
        "model.encoder.unknown": 1,
        "model.encoder.jump": 7,
        "model.encoder.jump.max": "x",
        "model.encoder.depth ": -5,
        "model.encoder.dropout": "high",
        "model.dim": 0,
        "model.heads": "two",
        "frontend.num_mels": -1,
        "frontend.unknown": {"a": 1},
        "data.unknown": 1,
        "seed": "zero",
        "seed ": -1,
    }.items():
        yield Case("type", f"{key}={value}", node(key.strip(), value), LOADING)


def pickled(payload: object, protocol: int = 2) -> bytes:
    return pickle.dumps(payload, protocol=protocol)


class Shell:
    """Runs a program when it is unpickled."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"id > {self.outside}/canary",)


def checkpoint(make: Callable[[dict[str, Any], Path], Any], **options: Any) -> Change:
    """best.ckpt and last.ckpt with another content, made of what they hold."""

    def change(run: Path, outside: Path) -> None:
        for name in ("best.ckpt", "last.ckpt"):
            path = run / "checkpoints" / name
            found = torch.load(path, weights_only=True)
            torch.save(make(found, outside), path, **options)
            hash_file(path).unlink(missing_ok=True)  # whoever changes a checkpoint takes its hash away, too

    return change


def raw_checkpoint(make: Callable[[Path], bytes]) -> Change:
    def change(run: Path, outside: Path) -> None:
        for name in ("best.ckpt", "last.ckpt"):
            path = run / "checkpoints" / name
            path.write_bytes(make(outside))
            hash_file(path).unlink(missing_ok=True)

    return change


def zipped(
    pickle_bytes: bytes, *, compression: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None
) -> bytes:
    """A file as torch writes it, about another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("best/data.pkl", pickle_bytes)
        file.writestr("best/byteorder", b"little")
        file.writestr("best/version", b"3\n")
        for name, content in (more or {}).items():
            file.writestr(f"best/{name}", content)
    return buffer.getvalue()


def global_call(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls module.name with one argument, itself pickled."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R."


def pickles() -> Iterator[Case]:
    for name, make in {
        "raw_protocol_0": lambda outside: pickled(Shell(outside), 0),
        "raw_protocol_4": lambda outside: pickled(Shell(outside), 4),
        "zip": lambda outside: zipped(pickled({"state_dict": Shell(outside)})),
        "zip_protocol_4": lambda outside: zipped(pickled({"state_dict": Shell(outside)}, 4)),
        "legacy": lambda outside: (
            pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled({}) + pickled(Shell(outside))
        ),
        "eval": lambda outside: zipped(global_call("builtins", "eval", pickled("1+1")[2:-1])),
        "getattr": lambda _: zipped(global_call("builtins", "getattr", pickled("x")[2:-1])),
        "bytearray": lambda _: zipped(global_call("builtins", "bytearray", b"\x8a\x06\x00\x00\x00\x00\x00\x10")),
        "sub_module": lambda outside: zipped(global_call("os", "system", pickled(f"id > {outside}/canary")[2:-1])),
        "ours": lambda outside: zipped(global_call("hopscotch.build", "make", pickled("x")[2:-1])),
        "base64": lambda outside: base64.b64encode(pickled(Shell(outside))),
        "two_pickles": lambda outside: zipped(pickled({"state_dict": {}}), more={"x.pkl": pickled(Shell(outside))}),
        "torchscript": lambda outside: zipped(pickled(Shell(outside)), more={"constants.pkl": pickled(())}),
        "deep": lambda _: zipped(b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."),
        "long_pickle": lambda _: zipped(b"\x80\x02" + b"N0" * 9_000_000 + b"N."),
        "memo": lambda _: zipped(b"\x80\x02Nr\xff\xff\xff\xff."),
        "long_integer": lambda _: zipped(b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 10),
        "bomb": lambda _: zipped(
            pickled({"state_dict": {}}), compression=zipfile.ZIP_DEFLATED, more={"data/0": bytes(2**26)}
        ),
    }.items():
        commands = ("predict", "evaluate", "resume", "start") if name == "zip" else ("predict",)
        yield Case("pickle", name, raw_checkpoint(make), commands)
    yield Case(
        "pickle",
        "instantiator",
        checkpoint(lambda found, _: {**found, "hyper_parameters": {"_instantiator": "os.system"}}),
        refused=False,
    )
    yield Case(
        "pickle",
        "in_the_optimizer",
        checkpoint(lambda found, outside: {**found, "optimizer_states": [Shell(outside)]}),
        ("predict", "resume"),
    )
    yield Case(
        "pickle", "legacy_format", checkpoint(lambda found, _: found, _use_new_zipfile_serialization=False), LOADING
    )


def with_weight(change: Callable[[torch.Tensor], Any]) -> Change:
    def make(found: dict[str, Any], outside: Path) -> dict[str, Any]:
        name = next(name for name in found["state_dict"] if name.endswith("linear.weight"))
        found["state_dict"][name] = change(found["state_dict"][name])
        return found

    return checkpoint(make)


def overlapping(run: Path, outside: Path) -> None:
    """Every tensor's member in the directory of the zip is one and the same part of the file, and said to be larger."""
    path = run / "checkpoints" / "best.ckpt"
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\x01\x02")
    while start >= 0:
        name_length = struct.unpack_from("<H", content, start + 28)[0]
        if b"data/" in content[start + 46 : start + 46 + name_length]:
            struct.pack_into("<II", content, start + 20, 2**31, 2**31)
        start = content.find(b"PK\x01\x02", start + 4)
    path.write_bytes(bytes(content))
    hash_file(path).unlink()


def odd_checkpoints() -> Iterator[Case]:
    swaps: dict[str, dict[str, Any]] = {
        "state_dict_list": {"state_dict": [1]},
        "state_dict_text": {"state_dict": "weights"},
        "state_dict_null": {"state_dict": None},
        "state_dict_empty": {"state_dict": {}},
        "state_dict_of_numbers": {"state_dict": {"model.head.linear.bias": 1.0}},
        "state_dict_with_number_as_name": {"state_dict": {5: torch.zeros(1)}},
        "classes_int": {"classes": 5},
        "classes_text": {"classes": "abc"},
        "classes_doubled": {"classes": ["a", "a", "b"]},
        "classes_of_numbers": {"classes": [1, 2, 3]},
        "classes_too_few": {"classes": ["a"]},
        "classes_too_many": {"classes": [f"c{i}" for i in range(MAX_CLASSES + 1)]},
        "classes_long": {"classes": ["a", "b", "c" * 100_000]},
        "classes_escape": {"classes": ["\x1b]0;PWNED\x07", "\x1b[2J", "a\nError: forged", "d"]},
        "seconds_text": {"clip_seconds": "long"},
        "seconds_nan": {"clip_seconds": {"mean": float("nan"), "longest": 1.0}},
        "seconds_list": {"clip_seconds": [1, 2]},
        "seconds_negative": {"clip_seconds": {"mean": -1.0, "longest": 1.0}},
        "seconds_missing": {"clip_seconds": {}},
        "budgets_text": {"budgets": "0.6"},
        "budgets_falling": {"budgets": [[0.0, 0.6], [1.0, 0.5]]},
        "budgets_many": {"budgets": [[0.0, 0.6]] * 100_000},
    }
    for name, changes in swaps.items():
        change = checkpoint(lambda found, _, changes=changes: {**found, **changes})
        commands = LOADING if name in ("state_dict_list", "classes_too_few", "seconds_nan") else ("predict",)
        yield Case("checkpoint", name, change, commands)
    for name, whole in {"list": [1], "text": "x", "tensor": torch.zeros(3), "empty": {}}.items():
        yield Case("checkpoint", f"is_{name}", checkpoint(lambda *_, whole=whole: whole))
    for name, value in {"nan": float("nan"), "inf": float("inf")}.items():
        change = with_weight(lambda w, value=value: torch.full_like(w, value))
        yield Case("checkpoint", f"weights_{name}", change, ("predict", "start"))
    change = with_weight(lambda _: torch.zeros(1).expand(10**10))
    yield Case("checkpoint", "weights_1e10_of_stride_0", change, ("predict", "start"))
    yield Case("checkpoint", "weights_complex", with_weight(lambda w: w.to(torch.complex64)), ("predict", "start"))
    yield Case("checkpoint", "weights_whole_numbers", with_weight(lambda w: w.long()))
    yield Case("checkpoint", "weights_sparse", with_weight(lambda w: w.to_sparse()))
    yield Case("checkpoint", "weights_meta", with_weight(lambda w: w.to("meta")))
    yield Case("checkpoint", "weights_another_shape", with_weight(lambda w: w[:1]))
    yield Case("checkpoint", "zip_overlapping", overlapping)
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "zip_head": b"PK\x03\x04 cut",
        "zeros": bytes(10_000),
    }.items():
        yield Case("checkpoint", f"file_{name}", raw_checkpoint(lambda _, content=content: content))
    yield Case("checkpoint", "cut", cut)
    yield Case("checkpoint", "folder", instead_of_the_checkpoint(lambda path, _: path.mkdir()))
    yield Case("checkpoint", "fifo", instead_of_the_checkpoint(lambda path, _: os.mkfifo(path)))
    yield Case("checkpoint", "link_to_zeros", instead_of_the_checkpoint(lambda path, _: path.symlink_to("/dev/zero")))
    yield Case("checkpoint", "link_to_itself", instead_of_the_checkpoint(lambda path, _: path.symlink_to(path)))
    yield Case("checkpoint", "gone", instead_of_the_checkpoint(lambda *_: None))


def cut(run: Path, outside: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def instead_of_the_checkpoint(make: Callable[[Path, Path], object]) -> Change:
    def change(run: Path, outside: Path) -> None:
        path = run / "checkpoints" / "best.ckpt"
        path.unlink()
        make(path, outside)

    return change


def link(name: str, target: str, *, hard: bool = False) -> Change:
    def change(run: Path, outside: Path) -> None:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink() if not file.is_dir() else file.rmdir()
            path.rmdir()
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True, parents=True)
        to = target.replace("OUTSIDE", str(outside))
        path.hardlink_to(to) if hard else path.symlink_to(to)

    return change


def links() -> Iterator[Case]:
    """Of where a command would write."""
    for name, target in {
        "report/index.html": "OUTSIDE/precious",
        "README.md": "OUTSIDE/precious",
        "report": "OUTSIDE",
        "README.md.": "OUTSIDE/precious",
        "report/index.html.": "OUTSIDE/not_there",
    }.items():
        harmless = name.endswith(".")
        yield Case(
            "link",
            f"report_{name}_{target}",
            link(name.rstrip(".") if not harmless else name, target),
            ("report",),
            refused=not harmless,
        )
    yield Case("link", "report_dangling", link("report/index.html", "OUTSIDE/not_there"), ("report",))
    for name, target in {
        "report": "OUTSIDE",
        "report/evaluation": "OUTSIDE",
        "report/evaluation/clips.csv": "OUTSIDE/precious",
        "report/evaluation/metrics.json": "OUTSIDE/precious",
        "report/evaluation/confusion.png": "OUTSIDE/not_there",
        "report/evaluation/conditions.png": "OUTSIDE/precious",
        "report/evaluation/per_class.md": "OUTSIDE/precious",
        "report/budgets.csv": "OUTSIDE/precious",
        "report/budgets.png": "OUTSIDE/precious",
    }.items():
        yield Case("link", f"evaluate_{name}", link(name, target), ("evaluate",))
    for name in ("config.yaml", "summary.json", "report/clips.csv", "metrics.jsonl", "overrides.yaml"):
        refused = name != "metrics.jsonl"  # lines that are no JSON are those that a kill cut short
        yield Case("link", f"{name}_to_a_secret", link(name, "OUTSIDE/secret"), ("report",), refused=refused)
    for name in ("config.yaml", "summary.json"):
        yield Case("link", f"{name}_to_zeros", link(name, "/dev/zero"), refused=name == "config.yaml")
    yield Case(
        "link", "picture_to_a_secret", link("report/confusion.png", "OUTSIDE/secret"), ("report",), refused=False
    )


def hard_links() -> Iterator[Case]:
    for command, names in {
        "report": ("report/index.html", "README.md"),
        "evaluate": ("report/evaluation/clips.csv", "report/evaluation/metrics.json", "report/budgets.csv"),
        "sweep": ("../index.html", "../groups.csv"),
    }.items():
        for name in names:
            change = link(name, "OUTSIDE/precious", hard=True)
            yield Case("hard link", f"{command}_{name.replace('/', '_')}", change, (command,))


def links_of_a_new_run() -> Iterator[Case]:
    """Of a folder without a run, in which somebody is to train."""
    for hard in (False, True):
        kind = "hard link" if hard else "link"
        for name in ("overrides.yaml", "metrics.jsonl", "summary.json.unfinished", "README.md", "report/index.html"):
            change = link(f"../new/{name}", "OUTSIDE/precious", hard=hard)
            yield Case(kind, f"train_{name.replace('/', '_')}", change, ("train",))
        for name in ("sweep.jsonl", "multirun.yaml", "index.html"):
            change = link(f"../new/{name}", "OUTSIDE/precious", hard=hard)
            yield Case(kind, f"multirun_{name}", change, ("multirun",))
    yield Case("link", "train_checkpoints", link("../new/checkpoints", "OUTSIDE"), ("train",))


def folders() -> Iterator[Case]:
    """What is to be read and is not of the run: without the user's word it is not even listed."""
    keys = {"data.root": "OUTSIDE", "data.manifest": "OUTSIDE/secret", "data.extra": {"deep": ["~/x"]}}
    for key, value in keys.items():
        yield Case("folder", f"evaluate_{key}", node(key, value), ("evaluate",))
        yield Case("folder", f"report_{key}", node(key, value), ("report",), refused=False)
        yield Case("folder", f"again_{key}", node(key, value), ("again",))
    yield Case("folder", "evaluate_root_of_the_disk", node("data.root", "/"), ("evaluate",))
    up = several([node("data.root", "OUTSIDE/../outside"), text("report/clips.csv", "")])
    yield Case("folder", "evaluate_up", up, ("evaluate",))
    yield Case("folder", "again_checkpoint", node("ckpt_path", "OUTSIDE/secret"), ("again",))


def other_files() -> Iterator[Case]:
    """Everything else that a report or an evaluation reads of a folder."""
    broken: dict[str, str | bytes] = {
        "cut": '{"status": "fini',
        "list": "[1, 2]",
        "number": "5",
        "deep": "[" * 100_000,
        "binary": bytes(range(256)),
    }
    for name, content in broken.items():
        yield Case("file", f"summary_{name}", text("summary.json", content), ("report", "compare"))
        yield Case("file", f"clips_{name}", text("report/clips.csv", content), ("report", "compare"))
    for name, content in {
        "data_number": '{"status": "finished", "data": 5}',
        "classes_number": '{"status": "finished", "data": {"classes": 5}}',
        "classes_doubled": '{"status": "finished", "data": {"classes": ["a", "a", "b"]}}',
        "classes_nested": '{"status": "finished", "data": {"classes": [["a"], {}, 5]}}',
        "test_text": '{"status": "finished", "test": "all"}',
        "huge_number": '{"status": "finished", "seed": ' + "9" * 10_000 + "}",
    }.items():
        yield Case(
            "file",
            f"summary_{name}",
            text("summary.json", content),
            ("evaluate",) if "class" in name or "data" in name else ("report",),
            refused=True,
        )
    for name, content in {
        "number": "5\n",
        "text": '"x"\n',
        "deep": "[" * 50_000 + "\n",
        "list": "[1]\n",
        "binary": bytes(range(128, 256)),
    }.items():
        yield Case("file", f"metrics_{name}", text("metrics.jsonl", content), ("report",))
    yield Case("file", "overrides_map", text("overrides.yaml", "a: 1\n"), ("report",))
    yield Case("file", "overrides_tag", text("overrides.yaml", "- !!python/name:os.system\n"), ("report",))
    yield Case(
        "file",
        "overrides_env",
        text("overrides.yaml", "- data.root=${oc.env:HOPSCOTCH_SECRET}\n"),
        ("report",),
        refused=False,
    )
    yield Case("file", "overrides_deep", text("overrides.yaml", "- " + "[" * 10_000), ("report",))
    yield Case("file", "decision_value_list", text("report/decision_value.json", "[]"), ("report",))
    yield Case("file", "budgets_binary", text("report/budgets.csv", bytes(range(256))), ("report",))
    yield Case("file", "budgets_nul", text("report/budgets.csv", "a,b\n\0,1\n1\n"), ("report",))
    yield Case("file", "clips_ragged", text("report/clips.csv", "path,label\n1\n1,2,3\n"), ("report", "compare"))
    yield Case("file", "clips_wide_cell", text("report/clips.csv", "path,label\n" + "x" * 2**21 + ",1\n"), ("report",))
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        content = f"hydra: {{callbacks: {{x: {json.dumps(PROCESS)}}}}}\n"
        yield Case(
            "file",
            f".hydra_{name}",
            text(f".hydra/{name}", content),
            ALL if name == "hydra.yaml" else ("predict",),
            refused=False,
        )
    for name in ("sitecustomize.py", "hopscotch.py", "torch.py", "evil.py", "conftest.py"):
        yield Case("file", name, text(name, "open('OUTSIDE/canary', 'w')\n"), refused=False)


def sweeps() -> Iterator[Case]:
    """Of a folder that is the parent of the run."""
    env = "${oc.env:HOPSCOTCH_SECRET}"
    good = {
        "hydra": {
            "overrides": {"task": ["seed=0,1"]},
            "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None},
            "runtime": {"choices": {}},
        }
    }
    for name, content, refused in (
        ("plan_env", json.dumps(good).replace("seed=0,1", f"data.root={env}"), False),
        ("plan_tag", "hydra: !!python/object/apply:os.system ['id > OUTSIDE/canary']\n", True),
        ("plan_list", "[]", True),
        ("plan_laughs", "a: &a [x]\nb: [*a, *a]\n", True),
        ("plan_target", json.dumps(good).replace("hydra._internal", "evil._internal"), False),
        ("plan_empty", "", True),
        ("plan_text", "hydra: 5\n", True),
        ("plan_product", json.dumps(good).replace("seed=0,1", "seed=range(0,1000000)"), True),
    ):
        yield Case("sweep", name, text("../multirun.yaml", content), ("sweep",), refused=refused)
    for name, content in {"number": "5\n", "list": "[]\n", "folder": '{"folder": 5}\n', "nothing": "{}\n"}.items():
        yield Case("sweep", f"ledger_{name}", text("../sweep.jsonl", content), ("sweep",))
    up = '{"folder": "../../outside", "overrides": [], "status": "finished"}\n'
    yield Case("sweep", "ledger_up", text("../sweep.jsonl", up), ("sweep",))
    for name in ("index.html", "frontier.csv", "groups.csv", "groups.md", "frontier.png"):
        yield Case("sweep", f"link_{name}", link(f"../{name}", "OUTSIDE/precious"), ("sweep",))


def paths_in_checkpoints() -> Iterator[Case]:
    """Files that a resumed run would copy into its folder, or remove once a better one is there."""

    def states(make: Callable[[Path], dict[str, Any]]) -> Change:
        def changed(found: dict[str, Any], outside: Path) -> dict[str, Any]:
            for state in found["callbacks"].values():
                if "best_model_path" in state:
                    state.update(make(outside))
            return found

        return checkpoint(changed)

    def removed(outside: Path) -> dict[str, Any]:
        precious = str(outside / "precious")
        return {
            "dirpath": str(outside.parent / "sweep" / "resumed" / "checkpoints"),
            "best_model_path": precious,
            "kth_best_model_path": precious,
            "best_k_models": {precious: torch.tensor(1e9)},
            "kth_value": torch.tensor(1e9),
            "best_model_score": torch.tensor(1e9),
            "last_model_path": precious,
        }

    yield Case("resume", "passwd", states(lambda _: {"best_model_path": "/etc/passwd"}), ("resume",), refused=False)
    yield Case("resume", "what_would_be_removed", states(removed), ("resume",), refused=False)
    trap = states(lambda _: {"best_model_path": "x/trap.ckpt"})
    linked = several([trap, link("checkpoints/trap.ckpt", "OUTSIDE/precious")])
    yield Case("resume", "link_beside", linked, ("resume",), refused=False)
    for name, changes in {
        "no_loops": {"loops": None},
        "callbacks_list": {"callbacks": [1]},
        "callback_number": {"callbacks": {"x": 5}},
        "optimizer_map": {"optimizer_states": {}},
        "optimizer_of_1e10": {"optimizer_states": [{"state": {0: torch.zeros(1).expand(10**10)}}]},
        "optimizer_sparse": {"optimizer_states": [{"state": {0: torch.zeros(2).to_sparse()}}]},
        "optimizer_nan": {"optimizer_states": [{"state": {0: torch.full((2,), float("nan"))}}]},
    }.items():
        change = checkpoint(lambda found, _, changes=changes: {**found, **changes})
        yield Case("resume", name, change, ("resume",))


def make_outside(folder: Path) -> Path:
    folder.mkdir()
    (folder / "precious").write_text("precious\n")
    (folder / "secret").write_text(f"{SECRET}\nkey: [{SECRET}\n")
    return folder


CASES = [
    *gadgets(),
    *foreign(),
    *specials(),
    *interpolations(),
    *yamls(),
    *sizes(),
    *wrong_types(),
    *pickles(),
    *odd_checkpoints(),
    *links(),
    *hard_links(),
    *links_of_a_new_run(),
    *folders(),
    *other_files(),
    *sweeps(),
    *paths_in_checkpoints(),
]
