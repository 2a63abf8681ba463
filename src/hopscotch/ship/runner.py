"""Run a model that `hopscotch export RUN --format onnx` wrote: numpy, onnxruntime and this file are all it takes.

    python runner.py clip.wav more.wav          one line of JSON for each file
    python runner.py --listen recording.wav     one line of JSON for each event, as soon as it is over
    ffmpeg ... -ac 1 -ar RATE -f s16le - | python runner.py --listen -

    from runner import Runner
    runner = Runner("FOLDER")                   # the folder with manifest.json and the graphs
    said = runner(samples)                      # floats, one channel, runner.sample_rate Hz
    said["label"], said["compute"]              # the share of a dense model's multiply-accumulates
    stream = runner.stream()                    # of a model that is always on and detects events
    for event in stream.feed(samples): ...      # any number of samples
    for event in stream.end(): ...              # what was not over yet

Graphs compute and hold no control flow. What decides between them is here: positions that a gate closes, layers that a
clip jumps over, keys that it does not read and spans that nothing opens are never computed. Costs are polynomials of
the manifest:

    fixed + position * T + key * K + pair * T * K + open * N

with T positions, K = ceil(T / stride) keys and N open positions.

A folder is data and may come from a stranger: its files are those that the manifest names, with their hashes, of a
bounded size. Graphs that refer to other files are refused. All is in one file, so that one file is what has to be
copied: reading a folder, clips, spans, events, and the command.
"""

import argparse
import hashlib
import json
import math
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

MANIFEST = "manifest.json"
FORMAT, VERSION = "hopscotch onnx", 1
NAME = re.compile(r"[A-Za-z0-9_]{1,64}\.(?:onnx|py|md)")
SEES = ("input", "first", "state")  # what a policy of jumps may see
MAX_DEPTH = 256  # layers of a stage
MAX_MANIFEST, MAX_FILES, MAX_BYTES = 2**24, 2_048, 2**31  # bytes, files, bytes of all files
ELSEWHERE = b"location"  # the key under which a graph names another file for its weights
LIMITS = {"sample_rate": 768_000, "window": 2**16, "hop": 2**16, "fft": 2**17, "bands": 2**16}
THINNED, STEP = 2, 4  # frames for one that is always heard, and for one of its scores
BLOCK = 256  # frames that are transformed at a time
BLOCK_SECONDS = 0.3  # that are heard at a time
CHUNK_SECONDS = 0.2  # that are read at a time
FULL_SCALE = 2**15  # of 16 bits
PCM = 1  # the format of a WAV file
MAX_CHUNK = 2**20  # bytes of a WAV file ahead of its samples
MOST_ODDS = 60.0  # of an exit's score
SURE = 30.0  # logit of background where nothing was computed
HYSTERESIS, MERGED = 0.5, 0.3  # of a threshold; seconds of a pause within an event
SLACK = 1e-9  # seconds


class Trace:
    """Hold what one clip did, layer by layer, and the multiply-accumulates of it."""

    def __init__(self):
        self.macs = 0
        self.awake: float | None = None  # share of positions that a gate let in, or of time that spans were open
        self.exit: int | None = None  # by which the clip left: 0 is the last one, then -1
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
        import onnxruntime  # here, so that all else in this file can be used without it

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
        self.spans = self.manifest["plan"]["spans"]
        self.exits = self.manifest["plan"].get("exits")
        self.pool = self.manifest["plan"]["head"]["pool"]
        self.stride = math.prod(self.manifest["plan"]["stem"]["strides"])  # frames of a position
        front = self.manifest["frontend"]
        self.hop, self.fft, self.num_bands = front["hop"], front["fft"], front["bands"]
        turns = np.arange(front["window"]) / front["window"]
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)

    def __call__(self, samples):
        """Say what a clip or a recording is; one longer than the clips of the training data is cut into windows.

        A model that detects events hears all of a recording at once, and lists them.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
            raise ValueError(f"samples must be finite floats of one channel, got shape {samples.shape}.")
        sizes, detects = self.manifest["windows"], self.manifest["kind"] == "events"
        starts, size = [0], len(samples)
        if size > sizes["longest"] and not detects:
            size = sizes["window"]
            starts = [*range(0, len(samples) - size, sizes["hop"]), len(samples) - size]
        results = [self.run(samples[start : start + size]) for start in starts]
        outputs, scores, traces, dense = zip(*results, strict=True)
        label, confidence, shares = self.said(np.mean(scores, axis=0).tolist())
        macs = sum(trace.macs for trace in traces)
        one = traces[0] if len(traces) == 1 else None  # windows differ in what they skip
        said = {
            "label": label,
            "confidence": confidence,
            "compute": macs / sum(dense),
            "awake": one and one.awake,
            "strides": one and one.strides,
            "history": one and [layer for layer, landed in enumerate(one.landed) if landed],
            "macs": macs,
            "dense_macs": sum(dense),
            "probabilities": shares,
        }
        return said | {"events": self.events(outputs[0])} if detects else said

    def said(self, scores):
        """Put scores into words: label, its probability, probabilities by class."""
        classes, kind = self.manifest["classes"], self.manifest["kind"]
        if kind == "number":
            return f"{scores[0]:.6g}", None, {}
        shares = dict(zip(classes, scores, strict=True))
        if kind in ("tags", "events"):
            pairs = zip(classes, scores, self.thresholds, strict=True)
            heard = (name for name, score, least in pairs if (score >= least if kind == "tags" else score > least))
            return ";".join(heard), max(scores), shares
        label = max(classes, key=shares.__getitem__)
        return label, shares[label], shares

    def events(self, outputs):
        """List the events in the outputs of a whole recording, in the order of their beginnings."""
        finder = Finder(self.thresholds, self.step)
        found = [one for row in shares_of(outputs) for one in finder.push(row)] + finder.end()
        names = self.manifest["classes"]
        return [
            {"start": in_seconds(start, self.step), "end": in_seconds(end, self.step), "label": names[label]}
            | {"confidence": confidence}
            for start, end, label, confidence in sorted(found)
        ]

    def stream(self, bias=None, on_scores=None):
        """Begin to hear a recording without end, chunk by chunk; scores go to `on_scores`, if it is given."""
        kind, level = self.manifest["kind"], self.manifest["frontend"]["level"]
        if self.spans is None or kind != "events":
            name = self.manifest["model"]
            raise ValueError(f"a stream needs model=always_on with task=detect, got model={name}, which says {kind}.")
        if level != "none":
            raise ValueError(f"a stream needs frontend.level=none (frontend=log_mel_stream), got {level}.")
        return Stream(self, self.manifest["classes"], self.bias if bias is None else bias, on_scores)

    @property
    def thresholds(self):
        """Return those of the classes; of events those for 2 false alarms an hour."""
        levels = self.manifest["thresholds"]
        return np.array(levels[-1] if self.manifest["kind"] == "events" else levels)

    @property
    def step(self):
        """Return the seconds from score to score of events."""
        return self.pool * self.stride * self.hop / self.sample_rate

    # One clip.

    def run(self, samples, bias=None):
        """Run one clip whole: outputs, scores, a Trace, and the multiply-accumulates of a dense model.

        `bias` > 0 favours more compute in every decision; None is what the model was trained for.
        """
        bias = self.bias if bias is None else bias
        if self.spans is not None:
            return self._run_spans(samples, bias)
        trace, half = Trace(), self.fft // 2
        power = self.power(np.pad(samples, (half, half)))
        if self.exits is not None:
            return self._run_exits(power, bias)
        x = self._graph("stem", power=power)[0]
        frames, time = power.shape[1], x.shape[1]
        trace.macs += self._around(frames)
        if self.manifest["plan"]["gate"]:
            rows = self._graph("gate", x=x, bias=np.array(bias, dtype=np.float32))[0][0].nonzero()[0]
            trace.awake = len(rows) / time
            if len(rows):
                x[:, rows] = self._encode(x[:, rows], bias, trace)
            else:
                self._add_none(trace)
        else:
            x = self._encode(x, bias, trace)
        logits, scores = self._graph("head", x=x)
        return logits[0], scores[0], trace, self._dense(frames)

    def _run_exits(self, power, bias):
        """Climb from exit to exit until one is sure; what is said is that of all exits so far, or of this one."""
        rungs, trace, frames = self.exits["rungs"], Trace(), power.shape[1]
        state, total, weight, said, number = power, 0.0, 0.0, np.zeros(1), 0
        for number, rung in enumerate(rungs):
            *left, logits, pooled = self._graph(f"rung{number}", power=power, x=state, image=state)
            state = left[0] if left else state
            if not self.exits.get("joined", True):
                total, weight = 0.0, 0.0
            total, weight = total + rung["weight"] * log_softmax(logits[0]), weight + rung["weight"]
            before, said = said if number else None, log_softmax(total / weight)
            trace.macs += rung_cost(rung, frames)
            trace.exit = number - len(rungs) + 1
            if trace.exit == 0 or self._score(number, said, before, pooled) - rung["threshold"] > bias:
                break
        for stride in self.exits["strides"][number]:
            trace.add(stride=stride, visited=stride > 0)
        dense = sum(rung_cost(rung, frames, is_dense=True) for rung in rungs)
        return said.astype(np.float32), np.exp(said), trace, dense

    def _score(self, number, said, before, pooled):
        """Say how sure an answer is: log odds of the likeliest class or, by a net, that the last exit would agree."""
        if not self.exits["learned"]:
            tempered = np.sort(log_softmax(said / self.exits["rungs"][number]["temperature"]))
            top, others = tempered[-1], tempered[:-1]
            return float(np.clip(top - np.logaddexp.reduce(others), -MOST_ODDS, MOST_ODDS))
        shares = np.sort(np.exp(said))
        same = before is None or before.argmax() == said.argmax()
        facts = [[shares[-1] - shares[-2], -float(np.exp(said) @ said), float(same)]]
        return float(self._graph(f"rule{number}", facts=np.array(facts, dtype=np.float32), pooled=pooled)[0][0])

    def _run_spans(self, samples, bias):
        """Run what opens of a clip: outputs are of all of it, and say background where nothing was computed."""
        plan, spans = self.spans, Spans(self, bias)
        computed = spans.hear(samples, is_over=True)
        trace, frames = spans.trace, spans.frames
        if trace is None:
            trace = Trace()
            self._add_none(trace)
        trace.awake, num_units = spans.awake / spans.decided, -(-frames // plan["unit"])
        always = -(-frames // STEP) * plan["macs"] + (0 if self.pool else self._head_macs(1))
        trace.macs = always + spans.macs
        whole = pieces(0, num_units, num_units, plan["context"], plan["longest"])
        dense = always + sum(
            self._dense(min(part.end * plan["unit"], frames) - part.start * plan["unit"]) for part in whole
        )
        if self.pool:
            logits = np.zeros((-(-frames // plan["row"]), len(self.manifest["classes"]) + 1), dtype=np.float32)
            logits[:, -1] = SURE
            for unit, rows in computed:
                first = unit * plan["unit"] // plan["row"]
                logits[first : first + len(rows)] = rows
            return logits, shares_of(logits).max(axis=0), trace, dense
        found = [rows for _, rows in computed] or [np.zeros((1, plan["dim"]), dtype=np.float32)]
        logits, scores = self._graph("head", x=np.concatenate(found)[None])
        return logits[0], scores[0], trace, dense

    def power(self, samples, every=1):
        """Compute power spectra of frames that begin at sample 0 and at every `every`-th hop: (1, frame, frequency)."""
        before = (self.fft - len(self.window)) // 2  # of a frame, where the window is 0
        inside = samples[before : len(samples) - (self.fft - len(self.window) - before)]
        frames = np.lib.stride_tricks.sliding_window_view(inside, len(self.window))[:: every * self.hop]
        power = np.empty((1, len(frames), self.fft // 2 + 1), dtype=np.float32)
        for start in range(0, len(frames), BLOCK):
            spectrum = np.fft.rfft(frames[start : start + BLOCK] * self.window, n=self.fft)
            power[0, start : start + BLOCK] = np.square(spectrum.real) + np.square(spectrum.imag)
        return power

    def _graph(self, graph, **inputs):
        session, names = self.sessions[graph]
        return session.run(None, {name: inputs[name] for name in names})  # a graph drops what it does not need

    # What a stream asks for.

    def bands(self, samples):
        """Compute the bands of every second frame, (1, frame, band), and the level that they are measured by."""
        return self._graph("bands", power=self.power(samples, THINNED))

    def hear(self, bands, level):
        """Score how surely the full model is needed, every second frame of those."""
        return self._graph("hear", bands=bands, level=level)[0][0]

    def compute(self, bands, level, bias):
        """Compute the rows of a span by the full model, and return a Trace, too."""
        trace = Trace()
        x = self._graph("stem", bands=bands, level=level)[0]
        trace.macs += self._around(bands.shape[1])
        x = self._encode(x, bias, trace)
        return (self._graph("head", x=x)[0] if self.pool else x)[0], trace

    # What it costs.

    def _around(self, frames):
        """Count what so many frames cost ahead of the encoder and behind it."""
        plan, total = self.manifest["plan"], 0
        for stride, macs in zip(plan["stem"]["strides"], plan["stem"]["macs"], strict=True):
            frames = -(-frames // stride)
            total += frames * macs
        total += cost(plan["around"], frames)
        if self.spans and not self.pool:  # all spans have one head
            return total
        return total + self._head_macs(-(-frames // self.pool) if self.pool else 1)

    def _head_macs(self, rows):
        return rows * self.manifest["plan"]["head"]["macs"]

    def _dense(self, frames):
        """Count what so many frames cost where nothing is skipped."""
        plan, positions = self.manifest["plan"], -(-frames // self.stride)
        return self._around(frames) + sum(cost(macs, positions) for stage in plan["stages"] for macs in stage["costs"])

    def _add_none(self, trace):
        for stage in self.manifest["plan"]["stages"]:
            for _ in range(stage["depth"]):
                trace.add(visited=False)

    # The encoder.

    def _encode(self, x, bias, trace):
        bias = np.array(bias, dtype=np.float32)
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


def rung_cost(rung, frames, is_dense=False):
    """Count the multiply-accumulates from one exit to the next, for a clip of so many frames."""
    for stride in rung["before"]:
        frames = -(-frames // stride)
    total = rung["fixed"]
    for stride, macs in zip(rung["stem"]["strides"], rung["stem"]["macs"], strict=True):
        frames = -(-frames // stride)
        total += frames * macs
    blocks = zip(rung["strides"], rung["costs"], strict=True)
    return total + sum(cost(macs, frames, 1 if is_dense else stride) for stride, macs in blocks)


def log_softmax(values):
    """Return log p, in double precision."""
    values = np.asarray(values, dtype=np.float64)
    return values - np.logaddexp.reduce(values)


# Spans of what is heard.


class Piece(NamedTuple):
    """Name the units that are computed together, and those among them whose results count; ends are exclusive."""

    start: int
    end: int
    core_start: int
    core_end: int


def pieces(start, end, num_units, context, longest):
    """Cut a span of a recording of so many units. One that is all context, after a ceiling, is its own core."""
    first = start if start == 0 else start + context
    last = end if end == num_units else end - context
    if first >= last:
        first, last = start, end
    for here in range(first, last, longest):
        core_end = min(here + longest, last)
        yield Piece(max(start, here - context), min(end, core_end + context), here, core_end)


class Ceiling:
    """Close what would exceed a share of the time, unit by unit, once `most` units are saved; open again at `least`."""

    def __init__(self, share, most, least):
        self.share, self.most, self.least = share, most, min(least, most)
        self.saved, self.is_open = most, False

    def allows(self, wanted):
        """Tell whether the next unit is open, given whether it should be."""
        self.saved = min(self.saved + self.share, self.most)
        self.is_open = wanted and self.saved >= (1.0 if self.is_open else self.least)
        self.saved -= self.is_open
        return self.is_open


class Spans:
    """Hear a recording chunk by chunk, and compute the spans that open.

    `parts` computes bands, scores and rows, as a Runner does. The state that is carried is what a result can depend on,
    so that results are those of the whole recording at once, and memory is the same after a day. A piece is computed
    once its span or its part of a long span is over.
    """

    def __init__(self, parts, bias):
        self.parts, self.plan, self.bias = parts, parts.spans, bias
        plan = self.plan
        least = plan["ahead"] + plan["behind"] + 1
        self.ceiling = Ceiling(plan["ceiling"], plan["ceiling"] * plan["saved"], least)
        self.block = math.ceil(BLOCK_SECONDS * parts.sample_rate / (parts.hop * THINNED))  # thin frames
        self.samples = np.zeros(parts.fft // 2, dtype=np.float32)  # from sample `first_sample` on
        self.bands = np.zeros((1, 0, parts.num_bands), dtype=np.float32)  # from thin frame `first_thin` on
        self.scores = []  # of units from `first_unit` on
        self.steps = []  # of the unit that is not complete
        self.first_sample = self.first_thin = self.first_unit = 0
        self.frames = self.num_steps = self.decided = self.awake = self.macs = 0
        self.run = None  # where the open span begins
        self.next_core = None  # of the open span's parts that are not computed, once one is
        self.trace, self.most = None, (0, 0)  # of the piece with the most results; how many, and of how many frames

    @property
    def settled(self):
        """Return the units up to which all results are there, or will never be."""
        return self.decided if self.run is None else self.run

    def hear(self, chunk, is_over=False):
        """Hear more samples, which may be the last; return results as pairs of a unit and the rows from there on."""
        parts, silence = self.parts, np.zeros(self.parts.fft // 2 if is_over else 0, dtype=np.float32)
        self.samples = np.concatenate([self.samples, chunk, silence])
        known = self.first_sample + len(self.samples)
        self.frames = max(0, (known - parts.fft) // parts.hop + 1)
        thin, done = -(-self.frames // THINNED), self.first_thin + self.bands.shape[1]
        if thin - done < self.block and not is_over:
            return []
        if thin > done:
            hop = THINNED * parts.hop
            begin = done * hop - self.first_sample
            bands, self.level = parts.bands(self.samples[begin : begin + (thin - done - 1) * hop + parts.fft])
            self.bands = np.concatenate([self.bands, bands], axis=1)
        self._score(thin, is_over)
        found = list(self._decide(is_over))
        self._forget()
        return found

    def _score(self, thin, is_over):
        """Score the steps that nothing later can change."""
        steps = max(0, (thin + 1 - (0 if is_over else self.plan["reach"] // THINNED)) // 2)
        if steps > self.num_steps:
            first = self._first_step()
            scores = self.parts.hear(self.bands[:, 2 * first - self.first_thin :], self.level)
            self.steps += scores[self.num_steps - first : steps - first].tolist()
            self.num_steps = steps

    def _first_step(self):
        """Return the step to begin with so that the next score is true."""
        return max(0, self.num_steps - (self.plan["reach"] // THINNED + 1) // 2)

    def _decide(self, is_over):
        """Open and close the units whose surroundings are known."""
        ahead, behind, size = self.plan["ahead"], self.plan["behind"], self.plan["unit"] // STEP
        while len(self.steps) >= size or (is_over and self.steps):
            self.scores.append(max(self.steps[:size]))
            del self.steps[:size]
        known = self.first_unit + len(self.scores)
        while self.decided + (0 if is_over else ahead) < known:
            unit, first = self.decided, self.first_unit
            reached = self.scores[max(0, unit - behind - first) : unit + ahead + 1 - first]
            is_open = self.ceiling.allows(max(reached) + self.bias > 0)
            self.decided += 1
            self.awake += is_open
            yield from self._open(unit) if is_open else self._close(unit, unit + 1)
        if is_over:
            yield from self._close(known, known)

    def _open(self, unit):
        """Take a unit into the span, and compute the part of it that is whole."""
        context, longest = self.plan["context"], self.plan["longest"]
        self.run = unit if self.run is None else self.run
        here = self.next_core
        if here is None:
            here = self.run if self.run == 0 else self.run + context
        end = here + longest + context
        if unit + 1 >= end:
            self.next_core = here + longest
            yield self._compute(Piece(max(self.run, here - context), end, here, here + longest))

    def _close(self, unit, num_units):
        """End the span ahead of a unit, and compute what is left of it."""
        if self.run is not None:
            for piece in pieces(self.run, unit, num_units, self.plan["context"], self.plan["longest"]):
                if self.next_core is None or piece.core_start >= self.next_core:
                    yield self._compute(piece)
        self.run = self.next_core = None

    def _compute(self, piece):
        """Run the full model on a piece: every second frame is there, the others are made."""
        unit, row, hop = self.plan["unit"], self.plan["row"], self.parts.hop
        start = piece.start * unit
        size = min(piece.end * unit, self.frames) - start
        bands = np.empty((1, size, self.bands.shape[2]), dtype=np.float32)
        first = start // THINNED - self.first_thin
        bands[:, ::THINNED] = self.bands[:, first : first + (size + 1) // THINNED]
        if size > 1:
            begin = (start + 1) * hop - self.first_sample
            end = begin + (size // THINNED - 1) * THINNED * hop + self.parts.fft
            bands[:, 1::THINNED] = self.parts.bands(self.samples[begin:end])[0]
        rows, trace = self.parts.compute(bands, self.level, self.bias)
        self.macs += trace.macs
        if (results := (piece.core_end - piece.core_start, size)) >= self.most:
            self.trace, self.most = trace, results
        skipped, last = (piece.core_start - piece.start) * unit // row, (piece.core_end - piece.start) * unit // row
        return piece.core_start, rows[skipped : min(last, -(-size // row))]

    def _forget(self):
        """Drop what no later result depends on."""
        unit, hop = self.plan["unit"], self.parts.hop
        kept = self.decided if self.run is None else self.run
        if self.next_core is not None:
            kept = self.next_core - self.plan["context"]
        thin = min(kept * unit // THINNED, 2 * self._first_step())
        sample = min(kept * unit, THINNED * (self.first_thin + self.bands.shape[1])) * hop
        self.bands, self.first_thin = self.bands[:, thin - self.first_thin :].copy(), thin
        self.samples, self.first_sample = self.samples[sample - self.first_sample :].copy(), sample
        first = max(self.first_unit, self.decided - self.plan["behind"])
        del self.scores[: first - self.first_unit]
        self.first_unit = first


# Events in scores.


class Finder:
    """Find events in scores that come row by row, as `hopscotch.detection.find` does in all of them."""

    def __init__(self, thresholds, step):
        self.thresholds, self.step, self.row = thresholds, step, 0
        self.start = np.full(len(thresholds), -1)  # of what is heard of a class; -1: nothing
        self.last = np.zeros(len(thresholds), dtype=int)
        self.peak = np.zeros(len(thresholds))

    def push(self, scores):
        """Take a row, and return the events that are over: start, end, class and highest score."""
        heard = scores > HYSTERESIS * self.thresholds
        is_first = heard & (self.start < 0)
        self.start[is_first], self.peak[is_first] = self.row, 0.0
        self.last[heard] = self.row
        self.peak[heard] = np.maximum(self.peak, scores)[heard]
        self.row += 1
        return self._over((self.start >= 0) & ((self.row - self.last - 1) * self.step > MERGED - SLACK))

    def end(self):
        """Return the events that are not over."""
        return self._over(self.start >= 0)

    def _over(self, is_over):
        sure = np.flatnonzero(is_over & (self.peak > self.thresholds))
        found = [(int(self.start[one]), int(self.last[one]) + 1, int(one), float(self.peak[one])) for one in sure]
        self.start[is_over] = -1
        return found


class StreamEvent(NamedTuple):
    """Say what was heard when, in seconds from the beginning of the stream."""

    start: float
    end: float
    label: str
    confidence: float
    latency: float  # seconds of the stream from the end of the event until it was said


class Stream:
    """Say which events are heard in a recording without end. Scores go to `on_scores`, if it is given."""

    def __init__(self, parts, classes, bias, on_scores=None):
        self.parts, self.classes, self.on_scores = parts, classes, on_scores
        self.spans, self.finder = Spans(parts, bias), Finder(parts.thresholds, parts.step)
        self.received = self.written = 0  # samples; units whose scores were said
        self.is_over = False

    @property
    def seconds(self):
        """Return how much was heard."""
        return self.received / self.parts.sample_rate

    @property
    def awake_share(self):
        """Return the share of the time for which spans were open."""
        return self.spans.awake / max(1, self.spans.decided)

    def feed(self, samples):
        """Hear more samples, full scale being 1, and return the events that are over."""
        if self.is_over:
            raise ValueError("the stream must not have ended, it has: begin another one.")
        chunk = np.asarray(samples, dtype=np.float32).reshape(-1)
        self.received += len(chunk)
        return self._said(self.spans.hear(chunk))

    def end(self):
        """Say that nothing more comes, and return the events that are left."""
        self.is_over = True
        found = self._said(self.spans.hear(np.zeros(0, dtype=np.float32), is_over=True))
        return found + [self._event(*one) for one in self.finder.end()]

    def _said(self, computed):
        found, per_unit = [], self.parts.spans["unit"] // self.parts.spans["row"]
        for unit, rows in computed:
            found += self._write_closed(unit)
            found += self._write(shares_of(rows))
            self.written = unit + -(-len(rows) // per_unit)
        return found + self._write_closed(self.spans.settled)

    def _write_closed(self, unit):
        """Say that nothing is heard up to a unit."""
        missing, self.written = max(0, unit - self.written), max(unit, self.written)
        per_unit = self.parts.spans["unit"] // self.parts.spans["row"]
        return self._write(np.zeros((missing * per_unit, len(self.classes)), dtype=np.float32)) if missing else []

    def _write(self, scores):
        if self.on_scores is not None:
            self.on_scores(scores)
        return [self._event(*one) for row in scores for one in self.finder.push(row)]

    def _event(self, start, end, label, confidence):
        step = self.parts.step
        late = max(0.0, self.seconds - end * step)
        return StreamEvent(in_seconds(start, step), in_seconds(end, step), self.classes[label], confidence, late)


def shares_of(outputs):
    """Turn outputs over time into probabilities of the classes, without that of background."""
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True))[:, :-1]


def in_seconds(row, step):
    """Return when a row of scores begins."""
    return round(row * step, 6)


# A folder, which may come from a stranger.


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
    yield "clip or none as level", front.get("level") in ("clip", "none")
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
    yield "a kind of answer", manifest.get("kind") in ("classes", "tags", "number", "events")
    if manifest["kind"] in ("tags", "events"):
        levels = manifest.get("thresholds")
        rows = [levels] if manifest["kind"] == "tags" else levels
        is_listed = isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows)
        is_level = is_listed and all(type(level) is float for row in rows for level in row)
        yield "a threshold for each class", is_level and all(len(row) == len(classes) for row in rows)
    try:
        is_known = is_plan(manifest["plan"])
    except (LookupError, TypeError, AttributeError):
        is_known = False
    yield "a plan as this version writes it", is_known
    yield (
        "a head that reads positions where events are said",
        manifest["kind"] != "events" or manifest["plan"]["head"]["pool"],
    )
    wanted = set(graphs_of(manifest["plan"]))
    yield "each graph of its plan among its files", wanted <= {name.removesuffix(".onnx") for name in files}


def is_plan(plan):
    """Tell whether a plan is as this version writes it, with numbers in bounds."""
    stem, stages = plan["stem"], plan["stages"]
    if not (isinstance(plan["gate"], bool) and isinstance(stages, list)):
        return False
    costs = [plan["around"], *(macs for stage in stages for macs in stage["costs"])]
    is_stem = are_counts(stem["strides"], 1) and are_counts(stem["macs"]) and len(stem["strides"]) == len(stem["macs"])
    if not are_counts([plan["head"]["pool"], plan["head"]["macs"]]):
        return False
    if plan["spans"] is not None and (plan["gate"] or not are_spans(plan["spans"])):
        return False
    if plan.get("exits") is not None and (plan["gate"] or plan["spans"] or stages or not are_exits(plan["exits"])):
        return False
    return is_stem and all(len(macs) == 5 and are_counts(macs) for macs in costs) and all(map(is_stage, stages))


def are_spans(plan):
    """Tell whether what opens spans is known: units are whole steps and whole rows."""
    sizes = [plan[name] for name in ("unit", "row", "longest", "saved", "dim")]
    is_counted = are_counts(sizes, 1) and are_counts(
        [plan[name] for name in ("ahead", "behind", "context", "reach", "macs")]
    )
    is_share = type(plan["ceiling"]) in (int, float) and 0 < plan["ceiling"] <= 1
    return is_counted and is_share and plan["unit"] % STEP == 0 and plan["unit"] % plan["row"] == 0


def are_exits(plan):
    """Tell whether the rungs between exits are known: costs, and how their answers are joined."""
    rungs, strides = plan["rungs"], plan["strides"]
    is_told = isinstance(plan["learned"], bool) and isinstance(plan.get("joined", True), bool)
    if not (is_told and isinstance(rungs, list) and 2 <= len(rungs) <= MAX_DEPTH):
        return False
    for number, rung in enumerate(rungs):
        stem, costs, is_last = rung["stem"], rung["costs"], number == len(rungs) - 1
        counts = [*rung["before"], *stem["strides"], *rung["strides"]]
        numbers = [rung["weight"], rung["temperature"], *([] if is_last else [rung["threshold"]])]
        is_counted = are_counts(counts, 1) and are_counts([rung["fixed"], *stem["macs"]])
        is_paired = len(stem["macs"]) == len(stem["strides"]) and len(costs) == len(rung["strides"])
        is_costed = all(len(macs) == 5 and are_counts(macs) for macs in costs)
        is_joined = all(type(value) is float and math.isfinite(value) for value in numbers) and min(numbers[:2]) > 0
        if not (is_counted and is_paired and is_costed and is_joined):
            return False
    return len(strides) == len(rungs) and all(are_counts(row) and 1 <= len(row) <= MAX_DEPTH for row in strides)


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
    if plan.get("exits") is not None:
        rungs = len(plan["exits"]["rungs"])
        yield from (f"rung{number}" for number in range(rungs))
        yield from (f"rule{number}" for number in range(rungs - 1) if plan["exits"]["learned"])
        return
    yield from ("stem", "head", *(["gate"] if plan["gate"] else []), *(["bands", "hear"] if plan["spans"] else []))
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


# The command.


def chunks_of(file, rate):
    """Read a file of one channel or more at the right rate; - is standard input, 16-bit samples of one channel.

    Without soundfile files are 16-bit WAV or raw samples.
    """
    try:
        import soundfile
    except (ImportError, OSError):  # or its library is not there
        soundfile = None
    if file == "-" or soundfile is None:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as source:
            yield from pcm(source, rate, "standard input" if file == "-" else file)
        return
    with soundfile.SoundFile(file) as source:
        if source.samplerate != rate:
            raise ValueError(f"{file} must be at {rate} Hz, got {source.samplerate}: resample it first.")
        for block in source.blocks(round(CHUNK_SECONDS * rate), dtype="float32", always_2d=True):
            yield block.mean(axis=1)


def pcm(source, rate, name="standard input", seconds=CHUNK_SECONDS):
    """Read 16-bit little-endian samples of one channel, raw or behind the header of a WAV file, until they end.

    Raises:
        ValueError: If the header names another format.
    """
    rest = source.read(12)
    if rest[:4] == b"RIFF" and rest[8:] == b"WAVE":
        skip_header(source, rate, name)
        rest = b""
    size = 2 * max(1, round(seconds * rate))
    while block := source.read(size):
        whole = rest + block
        even = len(whole) // 2 * 2
        yield np.frombuffer(whole[:even], dtype="<i2").astype(np.float32) / FULL_SCALE
        rest = whole[even:]
    if len(rest) >= 2:
        yield np.frombuffer(rest[: len(rest) // 2 * 2], dtype="<i2").astype(np.float32) / FULL_SCALE


def skip_header(source, rate, name):
    """Read a WAV file up to its samples; their number may be unknown where another program still writes them."""
    wanted = f"{name} must be 16-bit PCM of one channel at {rate} Hz: ffmpeg -i FILE -ac 1 -ar {rate} -f s16le -"
    while len(head := source.read(8)) == 8:
        part, size = struct.unpack("<4sI", head)
        if part == b"data":
            return
        if size > MAX_CHUNK:
            break
        content = source.read(size + size % 2)
        if part == b"fmt " and len(content) >= 16:
            kind, channels, found, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if (kind, channels, found, bits) != (PCM, 1, rate, 16):
                raise ValueError(f"{wanted}; got format {kind}, {channels} channels, {found} Hz, {bits} bits.")
    raise ValueError(f"{wanted}; got a WAV file without samples.")


def main(words):
    """Print an object of JSON for each file, or for each event of one."""
    parser = argparse.ArgumentParser(description="Print an object of JSON for each file.")
    parser.add_argument("files", nargs="+", help="audio at the rate of the model; - for 16-bit standard input")
    parser.add_argument("--listen", action="store_true", help="print one for each event, as soon as it is over")
    given = parser.parse_args(words)
    runner = Runner(Path(__file__).resolve().parent)
    for file in given.files:
        chunks = chunks_of(file, runner.sample_rate)
        if not given.listen:
            samples = np.concatenate([np.zeros(0, dtype=np.float32), *chunks])
            print(json.dumps({"path": file, **runner(samples)}))
            continue
        stream = runner.stream()
        try:
            for chunk in chunks:
                say(stream.feed(chunk))
        except KeyboardInterrupt:
            pass  # what was heard until then counts
        say(stream.end())


def say(events, out=None):
    """Print events with seconds and shares to three digits, at once."""
    for event in events:
        rounded = {
            name: round(value, 3) if isinstance(value, float) else value for name, value in event._asdict().items()
        }
        print(json.dumps(rounded, ensure_ascii=False), file=out, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
