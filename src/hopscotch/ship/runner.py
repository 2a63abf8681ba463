"""Run a model that `hopscotch export RUN --format onnx` wrote: numpy, onnxruntime and this file are all it takes.

    python runner.py clip.wav more.wav          one line of JSON for each file; soundfile reads them

    from runner import Runner
    runner = Runner("FOLDER")                   # the folder with manifest.json and the graphs
    said = runner(samples)                      # floats, one channel, runner.sample_rate Hz
    said["label"], said["compute"]              # the share of a dense model's multiply-accumulates

Graphs compute and hold no control flow. What decides between them is here: positions that a gate closes, layers that a
clip jumps over and keys that it does not read are never computed. Costs are polynomials of the manifest:

    fixed + position * T + key * K + pair * T * K + open * N

with T positions, K = ceil(T / stride) keys and N open positions.

A folder is data and may come from a stranger: its files are those that the manifest names, with their hashes, of a
bounded size. Graphs that refer to other files are refused.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

MANIFEST = "manifest.json"
FORMAT, VERSION = "hopscotch onnx", 1
NAME = re.compile(r"[a-z0-9_]{1,64}\.(?:onnx|py)")
SEES = ("input", "first", "state")  # what a policy of jumps may see
MAX_DEPTH = 256  # layers of a stage
MAX_MANIFEST, MAX_FILES, MAX_BYTES = 2**24, 2_048, 2**31  # bytes, files, bytes of all files
ELSEWHERE = b"location"  # the key under which a graph names another file for its weights
LIMITS = {"sample_rate": 768_000, "window": 2**16, "hop": 2**16, "fft": 2**17}


class Trace:
    """Hold what one clip did, layer by layer, and the multiply-accumulates of it."""

    def __init__(self):
        self.macs = 0
        self.open = None  # positions that a gate let in, where there is one
        self.strides, self.jumps, self.visited, self.landed = [], [], [], []

    def add(self, *, stride=0, jump=-1, visited=True, landed=False):
        """Add a layer."""
        for column, value in zip(
            (self.strides, self.jumps, self.visited, self.landed), (stride, jump, visited, landed), strict=True
        ):
            column.append(value)


class Runner:
    """Answer for clips with the graphs of a folder; `num_threads` is for the products inside of them."""

    def __init__(self, folder, num_threads=1):
        self.manifest, graphs = read_folder(Path(folder))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = 3  # errors
        self.sessions = {}
        for name, content in graphs.items():
            try:
                session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise ValueError(f"{name}.onnx must be a graph that onnxruntime reads: it is none.") from error
            self.sessions[name] = session, [node.name for node in session.get_inputs()]
        self.sample_rate = self.manifest["sample_rate"]
        self.bias = self.manifest["bias"]
        front = self.manifest["frontend"]
        self.hop, self.fft = front["hop"], front["fft"]
        turns = np.arange(front["window"]) / front["window"]
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)

    def __call__(self, samples):
        """Say what a clip or a recording is; one longer than the clips of the training data is cut into windows."""
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise ValueError(f"samples must be finite floats of one channel, got shape {samples.shape}.")
        sizes = self.manifest["windows"]
        starts, size = [0], len(samples)
        if size > sizes["longest"]:
            size = sizes["window"]
            starts = [*range(0, len(samples) - size, sizes["hop"]), len(samples) - size]
        scores, traces, dense = zip(*(self.run(samples[start : start + size])[1:] for start in starts), strict=True)
        label, confidence, shares = self.said(np.mean(scores, axis=0).tolist())
        macs = sum(trace.macs for trace in traces)
        one = traces[0] if len(traces) == 1 else None  # windows differ in what they skip
        return {
            "label": label,
            "confidence": confidence,
            "compute": macs / sum(dense),
            "strides": one and one.strides,
            "history": one and [layer for layer, landed in enumerate(one.landed) if landed],
            "macs": macs,
            "dense_macs": sum(dense),
            "probabilities": shares,
        }

    def said(self, scores):
        """Put scores into words: label, its probability, probabilities by class."""
        classes, kind = self.manifest["classes"], self.manifest["kind"]
        if kind == "number":
            return f"{scores[0]:.6g}", None, {}
        shares = dict(zip(classes, scores, strict=True))
        if kind == "tags":
            pairs = zip(classes, scores, self.manifest["thresholds"], strict=True)
            return ";".join(name for name, score, least in pairs if score >= least), max(scores), shares
        label = max(classes, key=shares.__getitem__)
        return label, shares[label], shares

    def run(self, samples, bias=None):
        """Run one clip whole: outputs, scores, a Trace, and the multiply-accumulates of a dense model.

        `bias` > 0 favours more compute in every decision; None is what the model was trained for.
        """
        plan, trace = self.manifest["plan"], Trace()
        bias = np.array(self.bias if bias is None else bias, dtype=np.float32)
        power = self.power(samples)
        x = self._graph("stem", power=power)[0]
        frames, time = power.shape[1], x.shape[1]
        for stride, macs in zip(plan["stem"]["strides"], plan["stem"]["macs"], strict=True):
            frames = -(-frames // stride)
            trace.macs += frames * macs
        trace.macs += cost(plan["around"], time)
        dense = trace.macs + sum(cost(part, time) for stage in plan["stages"] for part in stage["costs"])
        if plan["gate"]:
            rows = self._graph("gate", x=x, bias=bias)[0][0].nonzero()[0]
            trace.open = rows
            if len(rows):
                x[:, rows] = self._encode(x[:, rows], bias, trace)
            else:
                for stage in plan["stages"]:
                    for _ in range(stage["depth"]):
                        trace.add(visited=False)
        else:
            x = self._encode(x, bias, trace)
        logits, scores = self._graph("head", x=x)
        return logits[0], scores[0], trace, dense

    def power(self, samples):
        """Compute the power spectrum of a frame every `hop` samples: (1, frame, frequency)."""
        before = self.fft // 2 - (self.fft - len(self.window)) // 2
        padded = np.pad(samples, (before, self.fft // 2))
        frames = np.lib.stride_tricks.sliding_window_view(padded, len(self.window))[:: self.hop]
        frames = frames[: len(samples) // self.hop + 1]
        spectrum = np.fft.rfft(frames * self.window, n=self.fft)
        return (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32)[None]

    def _graph(self, graph, **inputs):
        session, names = self.sessions[graph]
        return session.run(None, {name: inputs[name] for name in names})  # a graph drops what it does not need

    def _encode(self, x, bias, trace):
        kinds = {"stack": self._stack, "jumps": self._jumps, "strides": self._strides}
        for number, stage in enumerate(self.manifest["plan"]["stages"]):
            x = kinds[stage["kind"]](f"stage{number}", stage, x, bias, trace)
        return x

    def _stack(self, name, stage, x, bias, trace):
        for stride, macs in zip(stage["strides"], stage["costs"], strict=True):
            trace.macs += cost(macs, x.shape[1], stride)
            trace.add(stride=stride)
        return self._graph(name, x=x)[0]

    def _strides(self, name, stage, x, bias, trace):
        time, planned = x.shape[1], [1] * stage["depth"]
        trace.macs += cost(stage["costs"][0], time)
        for layer, macs in enumerate(stage["costs"][1:]):
            if stage["sees"] == "layer":
                around, normed, planned[layer] = self._graph(f"{name}_choose{layer}", x=x, bias=bias)
                parts = {"around": around, "normed": normed}
            else:
                if layer == stage["fixed"]:
                    planned[layer:] = self._graph(f"{name}_plan", x=x, bias=bias)[0].tolist()
                parts = {"x": x}
            stride = max(1, int(planned[layer]))
            x = self._graph(f"{name}_layer{layer}", **parts, keys=np.arange(0, time, stride))[0]
            trace.macs += cost(macs, time, stride)
            trace.add(stride=stride)
        return x

    def _jumps(self, name, stage, x, bias, trace):
        depth, start, memory, unread = stage["depth"], x, stage["memory"], []
        trace.macs += cost(stage["costs"][0], x.shape[1])
        actions = self._graph(f"{name}_plan", x=x, bias=bias)[0] if stage["sees"] == "input" else []
        layer, action = 0, 0
        while True:
            x = self._visit(name, stage, layer, x, bias, trace)
            landed = action > 0
            if layer == depth - 1:
                trace.add(stride=stage["stride"], landed=landed)
                return self._graph(f"{name}_end", x=x)[0] if stage["gates"] else x
            if stage["sees"] == "state" or (stage["sees"] == "first" and layer == 0):
                actions = self._graph(f"{name}_plan", x=x, bias=bias)[0]
            action = max(0, int(actions[layer]))
            trace.add(stride=stage["stride"], jump=action, landed=landed)
            unread.append(x)
            following = layer + 1 if action == 0 else min(layer + action + stage["skips"], depth - 1)
            if action and memory is not None:
                memory = np.array(memory, dtype=np.float32).reshape(1, -1)
                for state in unread:  # a memory that no jump reads is never computed
                    memory = self._graph(f"{name}_memory", x=state, memory=memory)[0]
                x = self._graph(f"{name}_land", x=x, start=start, memory=memory, action=np.array([action]))[0]
                unread = []
            for _ in range(layer + 1, following):
                trace.add(visited=False)
            layer = following

    def _visit(self, name, stage, layer, x, bias, trace):
        time, graph, macs = x.shape[1], f"{name}_layer{layer}", stage["costs"][layer + 1]
        if not stage["gates"]:
            trace.macs += cost(macs, time)
            return self._graph(graph, x=x)[0]
        rows = self._graph(f"{name}_gate{layer}", x=x, bias=bias)[0][0].nonzero()[0]
        trace.macs += cost(macs, time, num_open=len(rows))
        if len(rows):
            x = x.copy()  # an earlier state may be read once more
            x[:, rows] += self._graph(graph, x=x[:, rows])[0]
        return x


def cost(macs, time, stride=1, num_open=None):
    """Count the multiply-accumulates of a part over `time` positions."""
    keys, num_open = -(-time // stride), time if num_open is None else num_open
    fixed, position, key, pair, open_ = macs
    return fixed + position * time + key * keys + pair * time * keys + open_ * num_open


def read_folder(folder):
    """Read manifest and graphs; every byte that is used was hashed before.

    Raises:
        ValueError: If a file is missing, too large, changed or cut, or the manifest is not as this version writes it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(content_of(path, MAX_MANIFEST))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise
        raise ValueError(f"{path} must be JSON: it cannot be parsed.") from None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path} must have format={FORMAT!r} and version={VERSION}, it has not.")
    fault = next((rule for rule, holds in rules(manifest) if not holds), None)
    if fault:
        raise ValueError(f"{path} must have {fault}, it has not.")
    graphs, left = {}, MAX_BYTES
    for name, wanted in manifest["files"].items():
        content = content_of(folder / name, left)
        left -= len(content)
        if hashlib.sha256(content).hexdigest() != wanted:
            raise ValueError(f"{folder / name} must be as {MANIFEST} says: it was changed or cut.")
        if name.endswith(".onnx"):
            if ELSEWHERE in content:
                raise ValueError(f"{folder / name} must hold its weights itself: it refers to another file.")
            graphs[name.removesuffix(".onnx")] = content
    return manifest, graphs


def rules(manifest):
    """Yield what must hold of a manifest, in words, and whether it does."""
    files, classes = manifest.get("files"), manifest.get("classes")
    is_named = isinstance(files, dict) and len(files) <= MAX_FILES and all(map(NAME.fullmatch, files))
    yield "files by plain names, with their hashes", is_named
    front, windows = manifest.get("frontend"), manifest.get("windows")
    yield (
        "maps at frontend, windows and plan",
        all(isinstance(part, dict) for part in (front, windows, manifest.get("plan"))),
    )
    for name, limit in LIMITS.items():
        number = manifest.get(name) if name == "sample_rate" else front.get(name)
        yield f"a whole number from 1 to {limit} as {name}", type(number) is int and 1 <= number <= limit
    yield (
        "a window that is no longer than fft, and not shorter than hop",
        front["hop"] <= front["window"] <= front["fft"],
    )
    sizes = [windows.get(name) for name in ("hop", "window", "longest")]
    yield (
        "rising numbers of samples at windows",
        all(type(n) is int and n > 0 for n in sizes) and sizes == sorted(sizes),
    )
    yield "a number as bias", type(manifest.get("bias")) in (int, float)
    yield "texts as classes", isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)
    yield "a kind of answer", manifest.get("kind") in ("classes", "tags", "number")
    if manifest["kind"] == "tags":
        levels = manifest.get("thresholds")
        is_level = isinstance(levels, list) and all(type(level) is float for level in levels)
        yield "a threshold for each class", is_level and len(levels) == len(classes)
    try:
        is_known = is_plan(manifest["plan"])
    except (LookupError, TypeError, AttributeError):
        is_known = False
    yield "a plan as this version writes it", is_known
    wanted = set(graphs_of(manifest["plan"]))
    yield "each graph of its plan among its files", wanted <= {name.removesuffix(".onnx") for name in files}


def is_plan(plan):
    """Tell whether a plan is as this version writes it, with numbers in bounds."""
    stem, stages = plan["stem"], plan["stages"]
    if not (isinstance(plan["gate"], bool) and isinstance(stages, list)):
        return False
    costs = [plan["around"], *(macs for stage in stages for macs in stage["costs"])]
    is_stem = are_counts(stem["strides"], 1) and are_counts(stem["macs"]) and len(stem["strides"]) == len(stem["macs"])
    return is_stem and all(len(macs) == 5 and are_counts(macs) for macs in costs) and all(map(is_stage, stages))


def is_stage(stage):
    """Tell whether a part of the encoder is one that a Runner knows."""
    depth, kind = stage["depth"], stage["kind"]
    if not (are_counts([depth], 1) and depth <= MAX_DEPTH and len(stage["costs"]) == depth + (kind != "stack")):
        return False
    if kind == "stack":
        return len(stage["strides"]) == depth and are_counts(stage["strides"], 1)
    if kind == "strides":
        return stage["sees"] in ("layer", "encoder", "first") and are_counts([stage["fixed"]])
    is_jumps = kind == "jumps" and isinstance(stage["gates"], bool) and stage["sees"] in SEES
    is_memory = stage["memory"] is None or all(type(number) is float for number in stage["memory"])
    return is_jumps and is_memory and are_counts([stage["stride"], stage["skips"]])


def are_counts(values, least=0):
    """Tell whether all are whole numbers of at least `least`."""
    return all(type(value) is int and value >= least for value in values)


def graphs_of(plan):
    """Name the graphs of a plan."""
    yield from ("stem", "head", *(["gate"] if plan["gate"] else []))
    for number, stage in enumerate(plan["stages"]):
        name, layers = f"stage{number}", range(stage["depth"])
        if stage["kind"] == "stack":
            yield name
            continue
        yield from (f"{name}_layer{layer}" for layer in layers)
        if stage["kind"] == "strides" and stage["sees"] == "layer":
            yield from (f"{name}_choose{layer}" for layer in layers)
            continue
        yield f"{name}_plan"
        if stage["kind"] == "jumps":
            yield from (f"{name}_{part}" for part in ("memory", "land") if stage["memory"] is not None)
            yield from [*(f"{name}_gate{layer}" for layer in layers), f"{name}_end"] if stage["gates"] else []


def content_of(path, most):
    """Read a file that is no link, up to `most` bytes."""
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} must be a file, and no link.")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} must have at most {most} bytes, it has more.")
    return content


def main(words):
    """Print an object of JSON for each file."""
    import soundfile

    runner = Runner(Path(__file__).resolve().parent)
    for word in words:
        samples, rate = soundfile.read(word, dtype="float32", always_2d=True)
        if rate != runner.sample_rate:
            raise ValueError(f"{word} must be at {runner.sample_rate} Hz, got {rate}: resample it first.")
        print(json.dumps({"path": word, **runner(samples.mean(axis=1))}))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
