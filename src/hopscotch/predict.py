"""Predict the classes of audio files with the model in a run's folder.

    from hopscotch.predict import load

    model = load("outputs/<run>")
    model("clip.wav").label
    for answer in model.predict(["a.wav", "b.wav"]): ...

The answer for a clip does not depend on the other clips of its batch. The compute budget is the one that the model was
trained for; `load(run, budget=0.6)` sets another one, by what was measured on validation clips when the run ended.
"""

import math
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hopscotch.above import warn_of_budget
from hopscotch.answers import Answer, Event, Form, Prediction, Window, counted, write_csv, write_json, write_table
from hopscotch.data.audio import MAX_MAGNITUDE, MAX_RATE, MIN_RATE, AudioFileError, printable, rate_ratio, resampler
from hopscotch.data.clips import one_ahead, some
from hopscotch.data.windows import Piece, Windowing, groups, pieces_of, side_by_side, usual_window
from hopscotch.detection import find
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.heads import DetectionHead
from hopscotch.plain import shown
from hopscotch.progress import progress_on_stderr
from hopscotch.report.decisions import LANDED, LETTERS, history_cells
from hopscotch.report.run_folder import RunFolder
from hopscotch.restore import restore, set_budget
from hopscotch.shared import has_graphs, is_shared, read_shared
from hopscotch.ship import runner
from hopscotch.ship.engine import OnnxModel, read_onnx
from hopscotch.stream import Stream
from hopscotch.types import SkipTrace

BATCH = 64  # clips
SILENT = "digital silence"  # note on an answer to zeros, or to channels that cancel each other
MANY = 256  # files from which starting processes pays
GROUP = 16  # batches that are read ahead and sorted by length together
MAX_BATCH_SAMPLES = 2**22  # with padding; fewer clips in a batch where they are long


class WindowResult(NamedTuple):
    """Hold the model's output for a clip or a window."""

    start: int  # samples from the beginning of its file
    num_samples: int
    scores: list[float]  # as the head has them: probabilities of the classes, or a number
    macs: int
    dense_macs: int
    strides: list[int]
    cells: list[int]  # what happened, per layer
    is_silent: bool  # digitally
    rows: Float[Tensor, "score classes"] | None  # of a detector, all through the clip

    @property
    def history(self) -> list[int]:
        return [layer for layer, cell in enumerate(self.cells) if cell == LANDED]

    @property
    def route(self) -> str:
        return "".join(LETTERS[cell] for cell in self.cells)


class Predictor:
    """Apply a trained model to files and waveforms; recordings longer than a clip are cut into windows.

    Without `window`, windows are as long as four mean training clips (at least 1 s), and a file is a clip up to that
    length or the longest clip of the run's data, whichever is more. A `window` that is given cuts everything longer
    than itself. `hop` is half a window unless given. Both are in seconds.
    """

    def __init__(
        self,
        model: AudioModel,
        classes: list[str],
        sample_rate: int,
        *,
        mean_seconds: float | None = None,
        longest_seconds: float | None = None,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = BATCH,
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        for name, seconds in (("window", window), ("hop", hop)):
            if seconds is not None and not math.isfinite(seconds * sample_rate):
                raise ValueError(f"{name} must be a finite number of seconds, got {seconds}.")
        usual = usual_window(mean_seconds)
        self.window = usual if window is None else window  # seconds
        self.hop = self.window / 2 if hop is None else hop  # seconds
        self.windowing = Windowing(
            longest=round((max(usual, longest_seconds or 0.0) if window is None else window) * sample_rate),
            window=round(self.window * sample_rate),
            hop=round(self.hop * sample_rate),
        )
        if self.windowing.window < 1:
            raise ValueError(f"window must be above 0 s, got {window}.")
        if not 1 <= self.windowing.hop <= self.windowing.window:
            raise ValueError(f"hop must be above 0 s and at most the window of {self.window:g} s, got {hop}.")
        self.device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self.classes, self.sample_rate, self.batch_size = classes, sample_rate, batch_size

    def __repr__(self) -> str:
        """Describe the model and how it reads recordings."""
        return (
            f"<Predictor: {self.model.name} tells {len(self.classes)} classes ({some(self.classes)}) at "
            f"{self.sample_rate} Hz on {self.device}; recordings over "
            f"{self.windowing.longest / self.sample_rate:.2f} s are cut into windows of {self.window:.2f} s.>"
        )

    def __call__(self, clip: Any, sample_rate: float | None = None) -> Prediction:
        """Predict a file, or a waveform: a tensor or array of floats, one channel, with its `sample_rate` in Hz."""
        if isinstance(clip, str | Path):
            (answer,) = self.predict([clip])
            if answer.prediction is None:
                raise AudioFileError(answer.error)
            return answer.prediction
        if isinstance(clip, list | tuple) and any(isinstance(part, str | Path) for part in clip):
            raise ValueError("One file or one waveform is predicted at a call; model.predict([...]) takes many files.")
        waveform = self.resampled(clip, sample_rate)
        starts = self.windowing.starts(len(waveform))
        size = len(waveform) if len(starts) == 1 else self.windowing.window
        results = self._run([(start, waveform[start : start + size]) for start in starts])
        return self._joined(results, are_windows=len(waveform) > self.windowing.longest)

    def predict(
        self, paths: Iterable[str | Path], on_progress: Callable[[float], object] | None = None, *, num_workers: int = 0
    ) -> Iterator[Answer]:
        """Yield an answer per file, in order; `on_progress` is called with every share of a file that is done.

        `num_workers` processes with one core each are quicker with many short files on a CPU. All `paths` are then read
        first, and on systems that spawn processes the script needs its `__main__` guard.
        """
        files = (path if isinstance(path, Path) else Path(path) for path in paths)
        if num_workers == 0:
            yield from self._answers(one_ahead(self._groups(files, first=self.batch_size)), on_progress)
            return
        for answers in side_by_side(self._share, list(files), num_workers):
            for answer in answers:
                if on_progress is not None:
                    on_progress(1.0)
                yield answer

    def _share(self, files: list[Path]) -> list[Answer]:
        return list(self._answers(self._groups(files, first=len(files)), None))

    def _groups(self, files: Iterable[Path], first: int) -> Iterator[list[Piece]]:
        most = max(first, GROUP * self.batch_size)
        return groups(files, self.sample_rate, self.windowing, first=first, most=most)

    def _answers(self, read: Iterator[list[Piece]], on_progress: Callable[[float], object] | None) -> Iterator[Answer]:
        done: list[WindowResult] = []  # of the file that is being read
        for group in read:
            results = iter(self._run([(piece.start, piece.waveform) for piece in group if piece.waveform is not None]))
            for piece in group:
                if piece.waveform is not None:
                    done.append(next(results))
                if on_progress is not None:
                    on_progress(piece.share)
                if piece.is_last:
                    prediction = None if piece.error else self._joined(done, are_windows=piece.is_window)
                    done = []
                    yield Answer(printable(piece.path), prediction, piece.error)

    def stream(self) -> runner.Stream:
        """Begin to hear a recording without end, chunk by chunk."""
        return self.model.stream() if isinstance(self.model, OnnxModel) else Stream(self.model, self.classes)

    def resampled(self, waveform: Any, sample_rate: float | None) -> Float[Tensor, " sample"]:
        """Check a waveform and resample it to the rate of the model."""
        if isinstance(waveform, np.ndarray):
            waveform = np.asarray(waveform, order="C")  # torch refuses negative strides
        tensor = torch.as_tensor(waveform)
        if not tensor.is_floating_point() or tensor.ndim != 1 or len(tensor) == 0:
            raise ValueError(
                "A waveform must be floats of one channel, shape (samples,), "
                f"got {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}."
            )
        if sample_rate is None:
            raise ValueError(f"A waveform needs its rate: model(waveform, sample_rate={self.sample_rate}), in Hz.")
        if not (MIN_RATE <= sample_rate <= MAX_RATE and sample_rate % 1 == 0):
            rule = f"must be a whole number of Hz in [{MIN_RATE}, {MAX_RATE}]"
            raise ValueError(f"The sample_rate of a waveform {rule}, got {sample_rate!r}.")
        if not torch.isfinite(tensor).all():
            raise ValueError("A waveform must be finite, got NaN or infinite samples.")
        if (largest := tensor.abs().max()) > MAX_MAGNITUDE:
            raise ValueError(f"A waveform must be at most {MAX_MAGNITUDE:g} in magnitude, got {largest:g}.")
        tensor = tensor.detach().float().cpu()
        source, target = rate_ratio(int(sample_rate), self.sample_rate)
        return tensor if source == target else resampler(source, target)(tensor)

    def _run(self, clips: list[tuple[int, Tensor]]) -> list[WindowResult]:
        """Return the results of clips in their order; clips of similar length share a batch."""
        lengths = [waveform.shape[0] for _, waveform in clips]
        results: dict[int, WindowResult] = {}
        for rows in self._batches(lengths):
            results.update(zip(rows, self._run_batch([clips[row] for row in rows]), strict=True))
        return [results[row] for row in range(len(clips))]

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Batch the shortest clips first: all clips of a batch are padded to its last one."""
        rows: list[int] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            if rows and (len(rows) == self.batch_size or (len(rows) + 1) * lengths[row] > MAX_BATCH_SAMPLES):
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows

    @torch.inference_mode()
    def _run_batch(self, clips: list[tuple[int, Tensor]]) -> list[WindowResult]:
        waveform = pad_sequence([waveform for _, waveform in clips], batch_first=True)
        lengths = [waveform.shape[0] for _, waveform in clips]
        output = self.model(waveform.to(self.device), torch.tensor(lengths, device=self.device))
        trace, scores = SkipTrace.kept([output.trace]), self.model.head.scores(output.logits.float())
        if not scores.isfinite().all():
            raise ValueError("Predictions must be finite, the model has made others: its weights are broken.")
        tensors = (
            scores,
            trace.macs,
            trace.dense_macs,
            trace.strides,
            history_cells(trace),
            ~waveform.any(dim=1),
        )
        rows: list[Tensor | None] = [None] * len(clips)
        if isinstance(head := self.model.head, DetectionHead):
            shares = output.logits.float().softmax(dim=-1)[..., :-1].cpu()
            rows = [row[: math.ceil(length / head.hop)] for row, length in zip(shares, lengths, strict=True)]
        columns = ([start for start, _ in clips], lengths, *(tensor.tolist() for tensor in tensors), rows)
        return [WindowResult(*facts) for facts in zip(*columns, strict=True)]

    def _joined(self, parts: list[WindowResult], *, are_windows: bool) -> Prediction:
        head, events = self.model.head, None
        columns = zip(*(part.scores for part in parts), strict=True)
        scores = [sum(column) / len(parts) for column in columns]
        if isinstance(head, DetectionHead):
            rows = together(parts, head.hop)
            scores, events = rows.amax(dim=0).tolist(), self._events(rows, head)
        last = parts[-1]
        return Prediction(
            *head.said(scores, self.classes),
            macs=sum(part.macs for part in parts),
            dense_macs=sum(part.dense_macs for part in parts),
            strides=None if are_windows else last.strides,
            history=None if are_windows else last.history,
            route=None if are_windows else last.route,
            seconds=(last.start + last.num_samples) / self.sample_rate,
            windows=[self._window(part) for part in parts] if are_windows and events is None else None,
            note=SILENT if all(part.is_silent for part in parts) else None,
            events=events,
        )

    def _events(self, rows: Float[Tensor, "score classes"], head: DetectionHead) -> list[Event]:
        """Find events as in a test, at the thresholds for 2 false alarms an hour, in the order of time."""
        found = find(rows.numpy(), head.thresholds[-1].double().cpu().numpy(), head.step)
        triples = zip(found.spans.tolist(), found.confidence.tolist(), strict=True)
        return sorted(Event(start, end, self.classes[int(label)], share) for (start, end, label), share in triples)

    def _window(self, part: WindowResult) -> Window:
        return Window(
            part.start / self.sample_rate,
            (part.start + part.num_samples) / self.sample_rate,
            *self.model.head.said(part.scores, self.classes),
            macs=part.macs,
            dense_macs=part.dense_macs,
            strides=part.strides,
            history=part.history,
            route=part.route,
        )


def together(parts: Sequence[WindowResult], hop: int) -> Float[Tensor, "score classes"]:
    """Join the scores of windows, of every `hop` samples: where two overlap, each has the half that it is around."""
    found: list[Tensor] = []
    done = 0  # scores
    for part, later in zip(parts, [*parts[1:], None], strict=True):
        assert part.rows is not None
        first = round(part.start / hop)
        until = None if later is None else round((part.start + part.num_samples + later.start) / (2 * hop)) - first
        found.append(part.rows[done - first : until])
        done += len(found[-1])
    return torch.cat(found)


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts that it is there
        why = str(error).splitlines()[0]
        raise ValueError(f"device must be one that torch finds here, such as cpu, got {name}: {why}") from None
    return torch.device(name)


def load(
    run: str | Path,
    ckpt: str | Path | None = None,
    *,
    budget: float | None = None,
    trust: Sequence[str] = (),
    engine: str | None = None,
    **options: Any,
) -> Predictor:
    """Load the model of a run's best checkpoint, or of `ckpt`; `options` are those of Predictor, such as window=2.0.

    `run` may be a folder that `hopscotch export` wrote. Neither executes code: classes other than Hopscotch's are
    refused unless `trust` names their module. `budget` is the share of a dense model's compute to spend on a mean clip,
    such as 0.6; one above the trained one that cost accuracy on validation clips is warned of. `engine`, if it is
    given, must be the one of the folder: onnx for one with graphs, else torch.
    """
    run = Path(run)
    own = "onnx" if has_graphs(run) else "torch"
    if engine not in (None, own):
        hint = " `hopscotch export RUN --format onnx` writes graphs." if engine == "onnx" else ""
        raise ValueError(f"engine must be {own} for {shown(run)}, got {engine}.{hint}")
    if is_shared(run):
        if ckpt is not None:
            raise ValueError(f"ckpt must not be given with {shown(run)}, which is an exported model.")
        restored = read_onnx(run) if own == "onnx" else read_shared(run, trust)
    else:
        restored = restore(run, None if ckpt is None else Path(ckpt), trust)
    if budget is not None:
        trained = float(restored.model.decision_bias)
        set_budget(restored, budget)
        known = RunFolder(run).summary if ckpt is None else {}  # which tells of the best checkpoint
        for warning in warn_of_budget(known, restored.budgets, trained, budget):
            warnings.warn(warning, stacklevel=2)
    return Predictor(
        restored.model,
        restored.classes,
        restored.cfg.data.sample_rate,
        mean_seconds=restored.mean_seconds,
        longest_seconds=restored.longest_seconds,
        **options,
    )


def usual_workers(num_files: int, device: torch.device) -> int:
    """Return one process per core for many files on a system where starting a process is cheap, else 0."""
    is_cheap = device.type == "cpu" and multiprocessing.get_start_method() == "fork"
    return torch.get_num_threads() if is_cheap and num_files >= MANY and torch.get_num_threads() > 1 else 0


def print_answers(model: Predictor, files: list[Path], form: Form, num_workers: int = 0, top: int | None = None) -> int:
    """Print answers on standard output, bad files and progress on standard error; return how many files failed.

    `top` classes with their probabilities are printed; without it all of them as JSON, and none in a table or CSV.
    """
    failed: list[str] = []
    with progress_on_stderr(len(files), "Listening") as advance:
        answers = counted(model.predict(files, advance, num_workers=num_workers), failed)
        writers = {"json": write_json, "csv": write_csv, "table": partial(write_table, classes=model.classes)}
        writers[form](answers, sys.stdout, top=top)
    if failed:
        print(f"{len(failed)} of {len(files)} files failed.", file=sys.stderr)
    return len(failed)


def explain(model: Predictor, clip: Path, out: Path | None = None) -> Path:
    """Draw one page on a clip, or on the first window of a recording, and return its path."""
    from hopscotch.explain import explained, save_page  # imports what draws reports

    if isinstance(model.model, OnnxModel):
        raise ValueError("explain needs a model of torch, got graphs: they do not tell what they attended to.")
    piece = next(pieces_of(clip, model.sample_rate, model.windowing))
    if piece.waveform is None:
        raise AudioFileError(piece.error)
    out = Path(f"{clip.stem}.explain.png") if out is None else out
    out.parent.mkdir(parents=True, exist_ok=True)
    page = explained(model.model, piece.waveform, model.sample_rate, model.classes)
    seconds = len(piece.waveform) / model.sample_rate
    name = shown(printable(Path(clip.name)))
    save_page(page, f"{name}, first {seconds:.2f} s" if piece.is_window else name, out)
    return out
