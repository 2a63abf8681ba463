"""Predict the classes of audio files, and show what each prediction cost.

    python scripts/predict.py run=outputs/<run> clip.wav folder 'more/*.flac'

    label  confidence  compute  strides              route       file
    seven       0.981    0.812  · · · · · · 4 3 2 1  xx->xxxxxx  recordings/7_theo_3.wav
    ...

    --json, --csv        for programs: on standard output, all other output on standard error
    --explain clip.wav   one page on one clip: its spectrogram, what the model attended to, skipped and computed

Route, a letter per layer: x ran, > ran after a jump to it, - was skipped. A file longer than every clip of the run's
data and than four mean training clips (at least 1 s) is cut into windows with a label each (--window, --hop). A file
that cannot be read is named and the others are still predicted; the exit code is then 1. It is 2 if there was nothing
to do. ckpt=FILE uses another checkpoint than the best one. A run folder executes no code; trust=MODULE allows the
classes of a module of yours. The compute budget is the one that the checkpoint was calibrated to; scripts/evaluate.py,
which has the data, sets others.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

KEYS = ("run=", "ckpt=", "trust=")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="run=FOLDER file, folder or 'glob*'")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects")
    form.add_argument("--csv", action="store_true", help="print a row per label")
    form.add_argument("--explain", metavar="CLIP", type=Path, help="draw one page instead")
    parser.add_argument("--out", metavar="PNG", type=Path, help="file of the page (default: <clip>.explain.png)")
    parser.add_argument("--window", metavar="SECONDS", type=float, help="length of the windows of a long recording")
    parser.add_argument("--hop", metavar="SECONDS", type=float, help="from one window to the next (half a window)")
    parser.add_argument("--batch-size", metavar="CLIPS", type=int, default=64, help="64; changes no label")
    parser.add_argument("--workers", metavar="N", type=int, help="processes, 0 for none (one per core for many files)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    arguments = parser.parse_intermixed_args()
    keys = dict(word.split("=", 1) for word in arguments.words if word.startswith(KEYS))
    names = [word for word in arguments.words if not word.startswith(KEYS)]
    if "run" not in keys or bool(names) == (arguments.explain is not None):
        parser.error("give run=<run folder> and files, or run=<run folder> and --explain <clip>")
    if arguments.out is not None and (arguments.explain is None or arguments.out.suffix != ".png"):
        parser.error(f"--out names a .png and goes with --explain, got {arguments.out}")
    if arguments.workers is not None and arguments.workers < 0:
        parser.error(f"--workers must be at least 0, got {arguments.workers}")
    sys.exit(1 if predict(keys, names, arguments) else 0)


def predict(keys: dict[str, str], names: list[str], arguments: argparse.Namespace) -> bool:
    """Predict or explain, and return whether any file failed."""
    from hopscotch.data.audio import AudioFileError
    from hopscotch.data.windows import find_files  # imports torch
    from hopscotch.plain import sentence
    from hopscotch.predict import explain, load, print_answers, usual_workers
    from hopscotch.registry import trusted
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    options = {key: getattr(arguments, key) for key in ("window", "hop", "batch_size", "device")}
    try:
        files = find_files(names)
        model = load(keys["run"], keys.get("ckpt"), trust=trusted(arguments.words), **options)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(error)}", file=sys.stderr)
        sys.exit(2)
    if arguments.explain is None:
        form = "json" if arguments.json else "csv" if arguments.csv else "table"
        workers = arguments.workers
        workers = usual_workers(len(files), model.device) if workers is None else workers
        return print_answers(model, files, form, workers) > 0
    try:
        print(explain(model, arguments.explain, arguments.out))
    except (AudioFileError, OSError) as error:
        sys.exit(f"Error: {sentence(error)}")
    return False


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv, quiet_end

    continue_in_venv()
    with quiet_end():
        main()
