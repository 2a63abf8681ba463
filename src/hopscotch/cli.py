"""Train audio models that learn what to skip, and use what was trained.

    hopscotch train model=learned_skip               train; key=value overrides, -m for sweeps, --help for all groups
    hopscotch audit data=folder data.root=F          look at data before training on them
    hopscotch look data=folder data.root=F           see and hear augmented training clips before training
    hopscotch runs                                   list the runs, newest first
    hopscotch predict latest clip.wav folder         predict classes, and what each prediction cost
    hopscotch listen latest --device                 print events of endless audio as soon as they are over
    hopscotch explain latest clip.wav                draw one page on one clip
    hopscotch evaluate latest compute.budget=[0.6,0.8]   test again: budgets, noise, other clips
    hopscotch report latest                          write the page of a run again
    hopscotch export latest FOLDER                   write a model to be sent to others
    hopscotch cascade RUN RUN                        join models: the next answers where one is unsure
    hopscotch compare RUN RUN                        compare runs, clip by clip
    hopscotch sweep FOLDER                           report a sweep: the metric against compute and time
    hopscotch doctor                                 check this machine and this installation
    hopscotch completion                             print what bash completes; see hopscotch completion --help

`hopscotch <verb> --help` says more, with examples. A RUN is the folder of a run, or `latest`. A run folder executes no
code; trust=MODULE allows the classes of a module of yours. `python -m hopscotch <verb>` is the same command.
"""

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from hopscotch.system import outputs, quiet_end

LATEST = "latest"
COMPLETION = """\
_hopscotch() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "VERBS" -- "$word"))
    elif [[ "${COMP_WORDS[1]}" = train || "${COMP_WORDS[1]}" = look ]]; then
        local line="hopscotch ${COMP_LINE#*"${COMP_WORDS[1]}"}"
        COMPREPLY=($(COMP_LINE="$line" COMP_POINT=${#line} COMP_CWORD=1 hopscotch train -sc query=bash 2>/dev/null))
        [[ ${COMPREPLY[0]} == *= || ${COMPREPLY[0]} == *. ]] && compopt -o nospace
    else
        COMPREPLY=($(compgen -W "latest" -f -- "$word"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -F _hopscotch hopscotch
"""


def main(words: Sequence[str] | None = None) -> None:
    """Run the verb that the first word names with the others."""
    verb, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(__doc__, end="")
        return
    if verb == "--version":
        from hopscotch import __version__

        print(f"hopscotch {__version__}")
        return
    if verb not in VERBS and "LOCAL_RANK" in os.environ:  # Lightning starts further processes without the verb
        verb, rest = "train", [verb, *rest]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        guess = f"train {verb}" if "=" in verb else near[0] if near else None
        hint = f" Did you mean `hopscotch {guess}`?" if guess else ""
        sys.exit(f"Error: the verb must be one of {', '.join(VERBS)}, got {verb!r}.{hint}")
    if verb != "train" and {"-h", "--help"} & set(rest):
        rest = ["--help"]
    with quiet_end(ValueError, OSError):
        VERBS[verb](rest)


def train(words: Sequence[str]) -> None:
    """Train a model; --help lists groups and choices."""
    from hopscotch.train import main as run

    def resolved(word: str) -> str:
        key, _, value = word.partition("=")
        starts = key in ("init_from", "compute.teacher") and value == LATEST
        names_run = key in ("again", "resume") or starts
        return f"{key}={find_run(value).absolute()}" if names_run else word

    run([resolved(word) for word in words])


def look(words: Sequence[str]) -> None:
    """Write a page of training clips as they come out of augmentation, to see and hear before training.

    hopscotch look data=folder data.root=F                        24 training clips: as they are, and two versions
    hopscotch look data=folder data.root=F augment=speakers       with stronger augmentation; any key of training
    hopscotch look data=folder data.root=F augment.noise=FOLDER   mixed with recordings of noise
    hopscotch look data=streams task=detect ...                   6 recordings of a minute, with their events
    hopscotch look clips=60 out=FILE.html seed=1                  more clips, another page, other draws

    Each version has its sound, its mel spectrogram with masks, and what was drawn for it: speed, gain, silence, the
    room, and the noise with its level. Versions are those of the first two epochs of a training with the same keys.
    Nothing is trained, and the same words make the same page. The line printed is the page, which is outputs/look.html
    unless out= names another file.
    """
    if told(words, look.__doc__):
        return
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in ("clips", "out")}
    if not own.get("clips", "1").isdecimal() or int(own.get("clips", 1)) < 1:
        raise ValueError(f"clips must be a whole number, at least 1, got {own['clips']}.")
    out = Path(own.get("out") or outputs() / "look.html").expanduser()
    from hopscotch.look import look as write
    from hopscotch.plain import shown

    rest = [word for word in words if word.partition("=")[0] not in own]
    print(shown(write(rest, out, int(own["clips"]) if "clips" in own else None)))


def audit(words: Sequence[str]) -> None:
    """Look at audio data before training on them: what there is, and what is wrong with it.

    hopscotch audit data=folder data.root=F                     any data of `hopscotch train`, with its keys
    hopscotch audit data=manifest data.manifest=FILE out=FOLDER    another folder for the results

        clips      2,000: 1,600 train, 200 val, 200 test (3 bad)
        found      1 unreadable or lying files (stops training)
        ...

    All clips are decoded once, on all cores. Written are index.html, audit.json with every name, and clips.csv with a
    row for each clip; the last line printed is the page. Found and named: files that cannot be read or whose header
    lies, with the reason; silence, clipping, channels that cancel each other (anti-phase), clips that are mostly
    silent, DC offsets; the same sound twice, in two splits, or under two labels; groups (data.group_by) on both sides;
    class names that differ in case or blanks alone, classes with few clips. No model is asked.

    Training refuses what is said to stop it; data.on_bad=skip leaves bad files out. The exit code is 0 if nothing was
    found, 1 if something was, 2 if the data cannot be read at all, such as a manifest with a line that is no JSON.
    """
    if told(words, audit.__doc__):
        return
    from hopscotch.audit import main as run

    sys.exit(run(words))


def told(words: Sequence[str], text: str | None) -> bool:
    """Print the help of a verb if it is asked for, or if nothing is given that the verb could work on."""
    if words and words != ["--help"]:
        return False
    lines = (text or "").splitlines()
    print("\n".join(line.removeprefix("    ") for line in lines).rstrip())
    if not words:
        sys.exit(2)
    return True


def take_run(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Find the run among the words, which is the first one or run=FOLDER, and return the others."""
    rest = list(words)
    place = next((place for place, word in enumerate(rest) if word.startswith("run=")), 0)
    word = rest.pop(place)
    is_key = "=" in word and not word.startswith("run=") and not Path(word).is_dir()
    if word.startswith("-") or is_key:
        raise ValueError(f"the run must come first: a folder, or {LATEST}; got {word}.")
    return find_run(word.removeprefix("run=")), rest


def find_run(name: str) -> Path:
    """Return the folder of a run that a word names; `latest` is the newest one.

    Raises:
        ValueError: If there is no such run, with the nearest names.
    """
    from hopscotch.report.run_folder import find_runs

    if name == LATEST and not Path(name).exists():
        found = find_runs(outputs())
        if not found:
            raise ValueError(f"{LATEST} needs a run, and there is none in {outputs()}.")
        return found[0]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        here = outputs() / name
        if here.is_dir():
            return here
        near = difflib.get_close_matches(folder.name, [run.name for run in find_runs(outputs())], n=1, cutoff=0.4)
        hint = f" Did you mean {outputs() / near[0]}?" if near else f" `hopscotch runs` lists those in {outputs()}."
        raise ValueError(f"run must be the folder of a run, got {name}: there is no such folder.{hint}")
    return folder


def evaluate(words: Sequence[str]) -> None:
    """Evaluate a trained model on its own test clips or others, in noise, and at other compute budgets.

    hopscotch evaluate RUN                                 the test of the run again, with tables and figures
    hopscotch evaluate RUN compute.budget=[0.7,0.8,0.9]    one checkpoint, many budgets
    hopscotch evaluate RUN snr=[20,10,5,0]                 in noise at these SNRs in dB; always the same noise
    hopscotch evaluate RUN snr=[20,10,0] noise=FOLDER      the noise is from these recordings
    hopscotch evaluate RUN impulse_responses=FOLDER        in the rooms of these recordings, too
    hopscotch evaluate RUN data=folder data.root=F         other clips of the same classes, from any conf/data
    hopscotch evaluate RUN ckpt=FILE out=FOLDER            another checkpoint; another folder for the results
    hopscotch evaluate RUN --against baselines             beside static models, trained alone with the run's words
    hopscotch evaluate RUN --against OTHER                 beside those of another run, on the same clips

        One checkpoint, many budgets
        condition  requested  on validation  on test  million MACs  accuracy  macro F1
        clean          0.700          0.702    0.696          5.11    0.9933    0.9933
        ...

    Budgets, rooms and noise combine: every budget with the clips as they are, then in rooms, then at every level.
    Budgets are fractions of the dense compute, met on validation clips as closely as the model can; beside several
    stands that of training. A warning names those above it that cost accuracy. A model that makes no decisions refuses
    budgets. data=folder tests a tenth of the clips unless it has train/, val/ and test/;
    data.test_fraction=0.9 data.val_fraction=0.05 tests more. Other keys of the run's configuration may be changed too:
    data.batch_size=64, trainer.accelerator=cpu.

    --against baselines trains what the run has to beat: the same stack with fewer layers, at most 6 of them, the
    deepest also with stochastic depth where the run has it or skips layers, or each width of model=slimmable, each in a
    process of its own in RUN/against/; the stages of a cascade are trained already.
    It takes as long as so many trainings; stopped and typed again it goes on. Static models of your own count too:
    hopscotch train ... hydra.run.dir=RUN/against/NAME. Printed and kept as against.json are the headroom (best static
    minus cheapest; below 2 standard errors no adaptive model can win), MACs, accuracy, core-seconds of training, and
    this model minus the cheapest static one that costs at least as much, at every budget in every condition.

    Results go to RUN/report/evaluation/: clips.csv, metrics.json, per_class.csv and .md, confusion.png, conditions.csv
    and its figure. The curve of compute.budget (budgets.csv and .png) goes there too, or, for the best checkpoint on
    the run's own clips, to RUN/report/ for the run's page. out= names another folder for all of them. The last line
    printed is the folder.
    """
    if told(words, evaluate.__doc__):
        return
    run, rest = take_run(with_against(words))
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from hopscotch.evaluate import evaluate as test_again
    from hopscotch.evaluate import parse
    from hopscotch.plain import shown
    from hopscotch.run import quiet
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    quiet()
    try:
        print(shown(test_again(**parse([f"run={run}", *rest]))))
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


def with_against(words: Sequence[str]) -> list[str]:
    """Write --against X and --against=X as against=X."""
    rest = [word.removeprefix("--") if word.startswith("--against=") else word for word in words]
    if "--against" in rest:
        place = rest.index("--against")
        rest[place : place + 2] = [f"against={''.join(rest[place + 1 : place + 2])}"]
    return rest


def predict(words: Sequence[str]) -> None:
    """Predict the classes of audio files, and show what each prediction cost.

    hopscotch predict RUN clip.wav folder 'more/*.flac'
    ffmpeg -i clip.m4a -f wav - | hopscotch predict RUN -

        label  confidence  compute  strides              route       file
        seven       0.981    0.812  · · · · · · 4 3 2 1  xx->xxxxxx  recordings/7_theo_3.wav
        ...

    Route, a letter per layer: x ran, > ran after a jump to it, - was skipped. A file longer than every clip of the
    run's data and than four mean training clips (at least 1 s) is cut into windows with a label each (--window, --hop);
    in the table, neighbours with the same label share a line. A detector (task=detect) has a line for each event
    instead, with its start and end in seconds. --budget 0.6 spends 0.6 of a dense model's compute on a
    mean clip, by what the run measured at its end; a budget above the trained one that cost accuracy there is warned
    of. A file that cannot be read is named and the others are still
    predicted; the exit code is then 1. It is 2 if there
    was nothing to do. ckpt=FILE uses another checkpoint than the best one; engine=onnx insists on onnxruntime, for
    which RUN is a folder of `hopscotch export --format onnx`.
    """
    parser = argparse.ArgumentParser(
        "hopscotch predict", description=predict.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="RUN file, folder or 'glob*'")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects")
    form.add_argument("--csv", action="store_true", help="print a row per label")
    form.add_argument("--explain", metavar="CLIP", type=Path, help="draw one page instead: hopscotch explain RUN CLIP")
    parser.add_argument("--out", metavar="PNG", type=Path, help="file of the page (default: <clip>.explain.png)")
    parser.add_argument("--top", metavar="K", type=int, help="print the K most likely classes (all as JSON)")
    parser.add_argument("--budget", metavar="SHARE", type=float, help="of a dense model's compute, such as 0.6")
    parser.add_argument("--window", metavar="SECONDS", type=float, help="length of the windows of a long recording")
    parser.add_argument("--hop", metavar="SECONDS", type=float, help="from one window to the next (half a window)")
    parser.add_argument("--batch-size", metavar="CLIPS", type=int, default=64, help="64; changes no label")
    parser.add_argument("--workers", metavar="N", type=int, help="processes, 0 for none (one per core for many files)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    given = parser.parse_intermixed_args(words)
    own = [word for word in given.words if word.startswith(("ckpt=", "trust=", "engine="))]
    named = [word for word in given.words if word not in own]
    if not named or (len(named) > 1) == (given.explain is not None):
        parser.error("give a run (a folder, or latest) and files, or a run and --explain CLIP")
    if given.out is not None and (given.explain is None or given.out.suffix != ".png"):
        parser.error(f"--out names a .png and goes with --explain, got {given.out}")
    if given.top is not None and given.top < 1:
        parser.error(f"--top must be at least 1, got {given.top}")
    if given.workers is not None and given.workers < 0:
        parser.error(f"--workers must be at least 0, got {given.workers}")
    if key := next((word for word in named[1:] if "=" in word and not os.path.exists(word)), None):
        parser.error(f"a key must be ckpt=, trust= or engine=, and a file must exist, got {key}")
    sys.exit(_predict(named, own, given))


def _predict(named: Sequence[str], own: Sequence[str], given: argparse.Namespace) -> int:
    from hopscotch.data.windows import find_files, is_pipe  # imports torch
    from hopscotch.plain import sentence
    from hopscotch.predict import explain as draw
    from hopscotch.predict import load, print_answers, usual_workers
    from hopscotch.registry import trusted
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    try:
        run, names = take_run(named)
        files = find_files(names)
        ckpt, engine = value_of("ckpt", own), value_of("engine", own)
        options = {key: getattr(given, key) for key in ("budget", "window", "hop", "batch_size", "device")}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            model = load(run, ckpt and Path(ckpt).expanduser(), trust=trusted(own), engine=engine, **options)
        for warning in told:
            print(f"warning: {sentence(warning.message)}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"Error: {sentence(error)}", file=sys.stderr)
        return 2
    if given.explain is not None:
        print(draw(model, given.explain, given.out))
        return 0
    form = "json" if given.json else "csv" if given.csv else "table"
    workers = usual_workers(len(files), model.device) if given.workers is None else given.workers
    workers = 0 if any(map(is_pipe, files)) else workers  # only this process has its standard input
    return int(print_answers(model, files, form, workers, given.top) > 0)


def value_of(key: str, words: Sequence[str]) -> str | None:
    """Return what was typed for a key, if anything."""
    return next((word.removeprefix(f"{key}=") for word in words if word.startswith(f"{key}=")), None)


def listen(words: Sequence[str]) -> None:
    """Print the events of a recording, or of audio without end, as soon as they are over.

    hopscotch listen RUN --file recording.flac
    hopscotch listen RUN --device                 the microphone, until Ctrl-C; --device NAME or --device NUMBER
    ffmpeg -i URL -ac 1 -ar 16000 -f s16le - | hopscotch listen RUN --file -

        {"start": 12.32, "end": 12.88, "label": "yes", "confidence": 0.972, "latency": 1.44}
        ...

    The model is one of model=always_on frontend=log_mel_stream task=detect. Standard input is 16-bit PCM of one channel
    at the model's rate, raw or as WAV; files may be any; a microphone needs the extra `microphone`. Times are seconds
    from the beginning; latency is how much later the event was said. At the end, also one by Ctrl-C, standard error has
    the share of the time that the full model was awake, CPU seconds for an hour of audio, and the real-time factor.
    ckpt=FILE uses another checkpoint than the best one; engine=onnx insists on onnxruntime, for which RUN is a folder
    of `hopscotch export --format onnx`.
    """
    parser = argparse.ArgumentParser(
        "hopscotch listen", description=listen.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="RUN")
    one = parser.add_mutually_exclusive_group(required=True)
    one.add_argument("--file", help="a file of audio, or - for standard input")
    one.add_argument("--device", nargs="?", const="", metavar="MICROPHONE", help="name or number (the default one)")
    given = parser.parse_intermixed_args(words)
    run, rest = take_run(given.words)
    if wrong := [word for word in rest if not word.startswith(("ckpt=", "trust=", "engine="))]:
        raise ValueError(f"listen takes one run, and ckpt=, trust= and engine=, got {wrong[0]}.")
    from hopscotch.listen import chunks_of
    from hopscotch.listen import listen as hear
    from hopscotch.microphone import microphone
    from hopscotch.predict import load
    from hopscotch.registry import trusted

    ckpt, engine = value_of("ckpt", rest), value_of("engine", rest)
    model = load(run, ckpt and Path(ckpt).expanduser(), trust=trusted(rest), engine=engine)
    source = chunks_of if given.device is None else microphone
    named = given.file if given.device is None else given.device
    print(hear(model.stream(), source(named, model.sample_rate), sys.stdout), file=sys.stderr)


def explain(words: Sequence[str]) -> None:
    """Draw one page on one clip: its spectrogram, what the model attended to, skipped and computed.

    hopscotch explain RUN clip.wav                  writes clip.explain.png
    hopscotch explain RUN clip.wav --out page.png   another file
    """
    if told(words, explain.__doc__):
        return
    run, *rest = words
    predict([run, "--explain", *rest])


def report(words: Sequence[str]) -> None:
    """Write the report of a finished or running run again: one HTML file and a model card.

    hopscotch report RUN                 prints the two files: RUN/README.md, RUN/report/index.html
    hopscotch report RUN data.root=F     if the data have moved
    """
    if told(words, report.__doc__):
        return
    folder, rest = take_run(words)
    from functools import partial

    from hopscotch.build import build_stored_data  # imports torch
    from hopscotch.plain import as_written, sentence, shown
    from hopscotch.registry import trusted
    from hopscotch.report.run_folder import read_run
    from hopscotch.report.run_page import CARD, PAGE, find_sounds, write_report
    from hopscotch.run import quiet

    quiet()
    run = read_run(folder)
    overrides = [word for word in rest if not word.startswith("trust=")]
    build = partial(build_stored_data, file=folder / "config.yaml", trust=trusted(rest))
    sounds, why_silent = find_sounds(run, build, overrides)
    with as_written(folder):
        write_report(run, sounds, why_silent)
    if why_silent:
        print(sentence(why_silent), file=sys.stderr)
    print(shown(folder / CARD))
    print(shown(folder / PAGE))


def export(words: Sequence[str]) -> None:
    """Write the model of a run as a folder of data alone, to be sent to others.

    hopscotch export RUN                           a new folder <run>-hopscotch here; --out names another
    hopscotch export RUN ckpt=FILE --out FOLDER    another checkpoint than the best one
    hopscotch export RUN --format onnx             graphs and a runner for a machine without torch; needs the extra onnx
    hopscotch export RUN --format onnx int8=true   with the weights of products in 8 bits

    The folder has config.json, weights.safetensors, and hashes of both in manifest.json. The command
    `hopscotch predict FOLDER clip.wav` and the function `hopscotch.load(FOLDER)` read it, without running anything of
    it. It holds no path of this machine, and neither training data nor the state of the optimizer.

    With --format onnx (or format=onnx) the folder <run>-onnx has a graph for each part of the model, all that joins
    them in manifest.json, and runner.py, which decides what is skipped and needs numpy and onnxruntime alone:
    `python runner.py clip.wav`. predict and load read it, too.
    """
    parser = argparse.ArgumentParser(
        "hopscotch export", description=export.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="RUN")
    formats = ("hopscotch", "onnx")
    parser.add_argument("--format", choices=formats, default="hopscotch", help="what is written (hopscotch)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="a new folder (default: <run>-<format>)")
    given = parser.parse_intermixed_args([f"--{word}" if word.startswith("format=") else word for word in words])
    run, rest = take_run(given.words)
    from hopscotch.plain import shown
    from hopscotch.registry import trusted

    own = {key: value for key, _, value in (word.partition("=") for word in rest)}
    keys = ("ckpt", "trust", "int8") if given.format == "onnx" else ("ckpt", "trust")
    if wrong := [word for word in rest if word.partition("=")[0] not in keys]:
        known = ", ".join(f"{key}=" for key in keys)
        raise ValueError(f"export takes one run, and {known} with --format {given.format}, got {wrong[0]}.")
    if own.get("int8", "false") not in ("true", "false"):
        raise ValueError(f"int8 must be true or false, got {own['int8']}.")
    ckpt = Path(own["ckpt"]) if "ckpt" in own else None
    out = Path(f"{run.resolve().name}-{given.format}") if given.out is None else given.out
    if given.format == "onnx":
        from hopscotch.ship.export import export_onnx

        print(shown(export_onnx(run, out, ckpt, trusted(rest), int8=own.get("int8") == "true")))
        return
    from hopscotch.shared import export as write

    print(shown(write(run, out, ckpt, trusted(rest))))


def cascade(words: Sequence[str]) -> None:
    """Join trained models of the same classes: the cheapest answers, and the next one where that is not sure.

    hopscotch cascade RUN RUN                     a new run in outputs/, from two runs or more of dense, skip_attention
    hopscotch cascade RUN RUN out=FOLDER          another folder for it
    hopscotch cascade RUN RUN compute.target=0.3  sure enough for 0.3 of what all models take together
    hopscotch cascade RUN RUN data.root=F         if the data have moved; keys are those of the dearest run

    Models are asked from the cheapest to the dearest, in whatever order they are named. Temperatures and thresholds
    are chosen on the validation clips of the dearest run, then its test clips are tested. The folder holds all weights
    and is a run like any other: predict, evaluate with compute.budget=, export and report take it. It is the last line
    printed.
    """
    if told(words, cascade.__doc__):
        return
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in ("out", "trust")}
    runs = [find_run(word) for word in words if "=" not in word or Path(word).is_dir()]
    overrides = [
        word for word in words if "=" in word and word.partition("=")[0] not in own and not Path(word).is_dir()
    ]
    from hopscotch.cascade import NAME, join
    from hopscotch.config.compose import new_folder
    from hopscotch.plain import shown
    from hopscotch.registry import trusted
    from hopscotch.run import quiet

    quiet()
    out = Path(own.get("out") or new_folder(NAME)).expanduser()
    print(shown(join(runs, out, overrides, trusted(words))))


def compare(words: Sequence[str]) -> None:
    """Compare runs: configurations where they differ, figures with intervals, and the clips on which they disagree."""
    from hopscotch.compare import main as run
    from hopscotch.plain import as_written

    with as_written(" ".join(words)):
        run([word if word.startswith("-") or not _is_run(word) else str(find_run(word)) for word in words])


def _is_run(word: str) -> bool:
    return word == LATEST or (not word.endswith(".csv") and not Path(word).exists())


def sweep(words: Sequence[str]) -> None:
    """Report a finished or running sweep: the metric against compute and seconds, the Pareto set, what failed and why.

    hopscotch sweep FOLDER                    the folder of hopscotch train -m
    hopscotch sweep FOLDER beside=FOLDER      with the runs of another one in the same tables

        Accuracy and cost, cheapest first; * Pareto set
        #   what                              runs          test acc       M MACs   ms a clip   fit s
        1   skip_transformer, at_budget 0.2      6   0.8813 ± 0.0211   *    0.667        0.48   159.1
        ...

    Seeds and held-out speakers are joined. Written into it: index.html, frontier.png, groups.csv, groups.md (a row per
    group), frontier.csv (a row per job). A sweep does this at its end by itself.
    """
    if told(words, sweep.__doc__):
        return
    beside = [Path(word.removeprefix("beside=")).expanduser() for word in words if word.startswith("beside=")]
    folders = [Path(word.removeprefix("sweep=")).expanduser() for word in words if not word.startswith("beside=")]
    if len(folders) != 1:
        raise ValueError(f"sweep needs one folder, got {len(folders)}: {' '.join(words)}.")
    from hopscotch.plain import as_written
    from hopscotch.sweep import report_folder

    with as_written(folders[0]):
        report_folder(folders[0], beside)


def runs(words: Sequence[str]) -> None:
    """List runs, newest first: model, status, metric, compute, minutes, folder.

    hopscotch runs             those in outputs/, jobs of sweeps among them
    hopscotch runs FOLDER      those in another folder
    """
    if words == ["--help"]:
        told(words, runs.__doc__)
        return
    if len(words) > 1:
        raise ValueError(f"runs takes one folder, got {len(words)}: {' '.join(words)}.")
    from rich.console import Console

    from hopscotch.report.run_folder import find_runs, runs_table
    from hopscotch.report.text import print_table

    folder = Path(words[0]).expanduser() if words else outputs()
    if words and not folder.is_dir():
        raise ValueError(f"runs needs a folder, got {folder}: there is none.")
    found = find_runs(folder)
    if not found:
        print(f"No run in {folder}. The first one: hopscotch train model=learned_skip")
        return
    console = Console()
    print_table(runs_table(found, folder), console if console.is_terminal else Console(width=200))


def doctor(words: Sequence[str]) -> None:
    """Check this machine and this installation: versions, devices, memory, disk, extras, and a few training steps.

    hopscotch doctor
    """
    if words:
        told(words, doctor.__doc__)
        return
    from hopscotch.doctor import check

    sys.exit(check())


def completion(words: Sequence[str]) -> None:
    """Print the completion of verbs, groups, choices and keys for bash.

    eval "$(hopscotch completion)"      in this shell; the same line in ~/.bashrc for all
    """
    if words:
        told(words, completion.__doc__)
        return
    print(COMPLETION.replace("VERBS", " ".join(VERBS)), end="")


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    verb.__name__: verb
    for verb in (
        train,
        audit,
        look,
        runs,
        predict,
        listen,
        explain,
        evaluate,
        report,
        export,
        cascade,
        compare,
        sweep,
        doctor,
        completion,
    )
}
