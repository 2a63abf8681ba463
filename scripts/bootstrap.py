#!/usr/bin/env python3
"""Get from a fresh clone to a trained model, or to a checked tree, with one command.

    python3 scripts/bootstrap.py train model=learned_skip   set up what is missing, then train
    python3 scripts/bootstrap.py test                       set up what is missing, then run the whole check
    python3 scripts/bootstrap.py test -k jump               ... with these arguments for pytest
    python3 scripts/bootstrap.py                            only set up

Setting up makes `.venv` in the checkout and installs into it the versions of constraints.txt: with uv, which
pip installs, or with pip alone if uv fails. It needs Python 3.11 to 3.13 and its standard library, and
looks for `python3.13` ... `python3.11` if another version runs it.

`.venv/hopscotch-stamp` records what is installed. While it matches pyproject.toml and constraints.txt there is nothing
to set up, and the next call starts at once. If the pins change, `.venv` is updated; if it is incomplete (an interrupted
call) or was moved, it is made again. Two calls at the same time wait for each other.

After that, `python train.py ...` is the everyday command, from any folder.
"""
# Annotations here are plain names, so that a Python that is too old reaches the message that says so.

import contextlib
import difflib
import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = "Scripts/python.exe" if os.name == "nt" else "bin/python"
PYTHON = VENV / BIN
STAMP = "hopscotch-stamp"
UNFINISHED = "unfinished\n"
VERBS = ("train", "test")
DOCS = ("sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", "docs/_build")
MOST_PROCESSES = 4  # each loads torch: some 600 MB
# A process takes file by file, in their order: by their numbers of tests, files of few and long ones would come last.
SHARED = ("--numprocesses", str(min(MOST_PROCESSES, os.cpu_count() or 1)), "--dist", "loadfile")
TESTS = ("pytest", *SHARED, "--no-loadscope-reorder")
CHECKS = (("ruff", "format", "--check"), ("ruff", "check"), ("basedpyright",), DOCS, TESTS)
OLDEST, NEWEST = (3, 11), (3, 13)
PROBE = f"import sys, ensurepip, venv; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"


class Refusal(Exception):
    """Something to tell the user, without a traceback."""


def main(arguments: list) -> int:
    """Read the verb, set up, run; the result is the exit code."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("-h", "--help"):
        print(__doc__)
        return 0
    check_verb(verb)
    hand_over(arguments)
    began = time.monotonic()
    if wanted_stamp(ROOT) == read_stamp(VENV):
        made = False
    else:
        with only_one(ROOT / ".venv.lock") as lock:
            made = set_up(lock)
    if verb == "train":
        return replace_by([str(PYTHON), str(ROOT / "train.py"), *rest])
    if verb == "test":
        return check_all(rest)
    state = "set up" if made else "already set up"
    say(f"{state}, in {time.monotonic() - began:.1f} s. Now: python train.py model=learned_skip")
    return 0


def check_verb(verb: str) -> None:
    """Refuse a word that is no verb, naming the nearest one."""
    if verb in ("", *VERBS):
        return
    near = difflib.get_close_matches(verb, VERBS, n=1)
    guess = f"train {verb}" if "=" in verb else near[0] if near else None
    hint = f" Did you mean `{guess}`?" if guess else ""
    raise Refusal(f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}, and none only sets up.{hint}")


# ---------------------------------------------------------------------------------------------- a Python to start from


def hand_over(arguments: list) -> None:
    """Start again with a suitable Python if this one is not."""
    ready = wanted_stamp(ROOT) == read_stamp(VENV)
    if ready or is_suitable(sys.executable):
        return
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = f"python3.{minor}"
        if is_suitable(name):
            say(f"Python {version()} does not work here (3.11 to 3.13 with venv does): going on with {name}")
            raise SystemExit(replace_by([name, str(Path(__file__).resolve()), *arguments]))
    raise Refusal(
        f"Python must be 3.11 to 3.13 with its venv and ensurepip modules, got {version()} at {sys.executable}, and no "
        "such python3.11 ... python3.13 is on the PATH. Install one (on Debian and Ubuntu: python3 and python3-venv)."
    )


def is_suitable(python: str) -> bool:
    """True if this program is a Python of the right age that can make a virtual environment.

    It is run, not only looked up: a shim on the PATH may stand for a Python that is not there.
    """
    try:
        return subprocess.call([python, "-I", "-c", PROBE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def version() -> str:
    """The running Python's version, as in 3.11.7."""
    return ".".join(map(str, sys.version_info[:3]))


# ------------------------------------------------------------------------------------------------- the stamp in .venv


def wanted_stamp(root: Path) -> str:
    """Return the stamp of a `.venv` under `root` that holds what this checkout requires.

    Two lines: the place, because a virtual environment does not survive a move; a hash over the pins and the Python.
    """
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"):
        path = root / name
        content = path.read_bytes() if path.exists() else b""
        digest.update(len(content).to_bytes(8, "big") + content)
    return f"{root}\n{digest.hexdigest()}\n"


def read_stamp(venv: Path) -> str:
    """Return the text of the stamp, or an empty text if there is no stamp or no Python."""
    stamp = venv / STAMP
    return stamp.read_text(encoding="utf-8") if stamp.exists() and (venv / BIN).exists() else ""


def write_stamp(venv: Path, text: str) -> None:
    """Replace the stamp in one step, so that it is never half written."""
    scratch = venv / f"{STAMP}.new"
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, venv / STAMP)


def must_be_made(venv: Path) -> str:
    """Return why `.venv` has to be made before anything can be installed, or an empty text if it can be kept.

    A stamp with older pins is no reason, nor is a missing one: then somebody made `.venv` by hand.
    """
    if not venv.exists():
        return "there is none"
    if not (venv / "pyvenv.cfg").exists() or not (venv / BIN).exists():
        return "it is not complete"
    stamp = read_stamp(venv)
    if stamp == UNFINISHED:
        return "an earlier call did not finish"
    if stamp and stamp.splitlines()[0] != str(venv.parent):
        return "it was made in another folder"
    if not is_suitable(str(venv / BIN)):
        return "its Python does not run, or is not 3.11 to 3.13"
    return ""


# ------------------------------------------------------------------------------------------------------------ set up


def set_up(lock: int) -> bool:
    """Make `.venv` match the pins; False if another call has done so in the meantime."""
    if wanted_stamp(ROOT) == read_stamp(VENV):
        return False
    reason = must_be_made(VENV)
    if reason:
        with timed(f"making .venv with Python {version()} ({reason})"):
            make_venv(lock)
    before = read_stamp(VENV)
    write_stamp(VENV, UNFINISHED)  # an interrupted set-up is never taken for a finished one
    with timed("installing the versions of constraints.txt (5 GB on Linux; fetched the first time)"):
        try:
            install(lock)
        except Refusal:  # such as no network: the next call can use what was there
            if not reason:
                write_stamp(VENV, before)
            raise
    write_stamp(VENV, wanted_stamp(ROOT))
    return True


def make_venv(lock: int) -> None:
    """Make an empty `.venv` in place of the old one, with the base Python if this one runs in the old `.venv`."""
    python = getattr(sys, "_base_executable", sys.executable)
    run([python, "-I", "-m", "venv", "--without-pip", "--clear", str(VENV)], lock)


def install(lock: int) -> None:
    """Install the project and its tools with uv, or with pip if uv is missing or fails.

    -I keeps PYTHONPATH and the user's own packages out. uv does not read pip's settings.
    """
    pip = [str(PYTHON), "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    uv = [str(PYTHON), "-I", "-m", "uv", "pip", "install", "--python", str(PYTHON)]
    pins = ["--constraint", "constraints.txt"]
    project = ["--editable", ".[dev,docs,onnx,cluster]"]
    run([str(PYTHON), "-I", "-m", "ensurepip", "--default-pip"], lock, quiet=True)
    try:
        run([*pip, *pins, "uv"], lock)
        run([*uv, "--compile-bytecode", *pins, "--build-constraint", "constraints.txt", *project], lock)
    except Refusal as failure:
        say(f"{failure}. Trying pip instead, which takes some minutes")
        run([*pip, *pins, *project], lock)


def run(command: list, lock: int, quiet: bool = False) -> None:
    """Run one step in the checkout.

    Each step holds the lock as well: if this process is killed, the next call waits until the step's program has ended.
    """
    inherited = () if os.name == "nt" else (lock,)
    output = subprocess.DEVNULL if quiet else sys.stderr
    code = subprocess.call(command, cwd=str(ROOT), stdout=output, pass_fds=inherited)
    if code:
        raise Refusal(f"`{' '.join(command[3:6])} ...` ended with exit code {code}; its output is above")


@contextlib.contextmanager
def only_one(path: Path):
    """Hold a lock file, waiting for another call that holds it. The system drops the lock when its holders end."""
    handle = os.open(str(path), os.O_RDWR | os.O_CREAT)
    try:
        if not try_lock(handle):
            say("another call is setting up this checkout; waiting for it")
            while not try_lock(handle):
                time.sleep(0.2)
        yield handle
    finally:
        os.close(handle)


def try_lock(handle: int) -> bool:
    """Lock an open file for this process unless another has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --------------------------------------------------------------------------------------------------------------- run


def run_check(check: tuple) -> tuple:
    """Run one check; the result is what was run, its exit code and its seconds."""
    arguments = list(check)
    if check == ("basedpyright",):
        arguments += ["--pythonpath", str(PYTHON)]  # otherwise it looks for a Python on the PATH
    say(" ".join(check))
    began = time.monotonic()
    code = subprocess.call([str(PYTHON), "-m", *arguments], cwd=str(ROOT))
    return check, code, time.monotonic() - began


def check_all(extra: list) -> int:
    """Run all checks, even if one fails: two at a time, then pytest, which gets `extra`. 1 if any failed."""
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run_check, CHECKS[:-1]))
    rows.append(run_check((*TESTS, *extra)))
    print()
    for check, code, seconds in rows:
        name = " ".join(check if len(check) < 4 else check[:1])
        print(f"{name:<20} {f'FAILED ({code})' if code else 'passed':<12} {seconds:7.1f} s")
    return int(any(code for _, code, _ in rows))


def replace_by(command: list) -> int:
    """Replace this process by another program, which then gets signals and sets the exit code; on Windows, call it."""
    sys.stdout.flush()
    if os.name == "nt":
        return subprocess.call(command)
    os.execvp(command[0], command)


@contextlib.contextmanager
def timed(what: str):
    """Print what begins, and how long it took."""
    say(f"{what} ...")
    began = time.monotonic()
    yield
    say(f"... {time.monotonic() - began:.1f} s")


def say(text: str) -> None:
    """Print a line on standard error, so that standard output has only the output of train.py."""
    print(f"[bootstrap] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refusal as refusal:
        say(str(refusal))
        sys.exit(2)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
