"""A sweep outlives its jobs: each is a process, whatever becomes of it, and the same command runs what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.types import RunMode

from hopscotch.config.compose import Loader
from hopscotch.jobs import Job, Jobs
from hopscotch.report.records import read_records
from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, Command, has_plugin, tiny_folder

WORDS = ["-m", "model=dense", "hydra.sweep.dir=all"]
# A job in milliseconds, found before the true package: what becomes of it is written in a file by its seed.
JOB = """\
import json, os, signal, sys, time
from pathlib import Path
words = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in sys.argv[2:])}
folder = Path(words.get("resume") or words["hydra.run.dir"].strip('"'))
seed = words.get("seed") or json.loads((folder / "seed.json").read_text())
with open("ran.txt", "a") as file:
    file.write(("resume " if "resume" in words else "") + seed + " " + os.environ.get("OMP_NUM_THREADS", "") + "\\n")
how = json.loads(Path("how.json").read_text()).get(seed, "finish")
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("{}")
(folder / "seed.json").write_text(json.dumps(seed))
own = [word for word in sys.argv[2:] if not word.startswith(("hydra", "resume", "--"))]
if own:
    (folder / "overrides.yaml").write_text(json.dumps(own))
def end(status, code):
    found = {"status": status, "model": "dense", "seed": int(seed), "test": {"acc": 1.0}, "primary":
        {"name": "acc", "larger_is_better": True, "test": 1.0, "val": 1.0}, "compute": {"macs": 1.0, "fraction": 1.0}}
    (folder / "summary.json").write_text(json.dumps(found))
    sys.exit(code)
if how == "raise":
    raise ValueError("no")
if how == "memory":
    raise MemoryError
if how.startswith("exit"):
    os._exit(int(how.split()[1]))
if how == "cut":
    (folder / "summary.json").write_text('{"status": "fini')
    sys.exit(0)
if how == "kept":
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    how = "kill"
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "wait":
    signal.signal(signal.SIGINT, lambda *_: end("stopped", 130))
    signal.signal(signal.SIGTERM, lambda *_: end("stopped", 143))
    Path("waits.txt").touch()
    time.sleep(60)
    sys.exit(1)
end("finished", 0)
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the processes that this one starts be such jobs."""
    (tmp_path / "hopscotch").mkdir()
    (tmp_path / "hopscotch" / "__init__.py").touch()
    (tmp_path / "hopscotch" / "__main__.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    become()
    return tmp_path


def become(**how: str) -> None:
    Path("how.json").write_text(json.dumps({seed.removeprefix("s"): what for seed, what in how.items()}))


def ran() -> list[str]:
    """What has run since the last call, in order."""
    path = Path("ran.txt")
    lines = [line.rsplit(" ", 1)[0] for line in path.read_text().splitlines()] if path.is_file() else []
    path.unlink(missing_ok=True)
    return lines


def statuses(folder: Path = Path("all")) -> dict[str, str]:
    return {record.seed: record.status for record in read_records(folder)}


def test_whatever_becomes_of_a_job_the_others_run_and_the_same_command_runs_what_is_missing(
    command: Command, jobs: Path
) -> None:
    become(s1="raise", s2="exit 0", s3="exit 3", s4="kill", s5="memory", s6="cut", s7="kept")
    ended = command(*WORDS, "seed=0,1,2,3,4,5,6,7,8")
    assert ended.code == 1
    assert ran() == list("012345678")
    rows = {row["overrides"][1]: row for row in map(json.loads, Path("all/sweep.jsonl").read_text().splitlines())}
    assert {key: row["status"] for key, row in rows.items()} == {
        f"seed={seed}": "finished" if seed in (0, 8) else "failed" for seed in range(9)
    }
    assert rows["seed=2"]["error"] == "its process ended with exit code 0"
    assert rows["seed=3"]["error"] == "its process ended with exit code 3"
    assert rows["seed=4"]["error"] == "its process was killed by SIGKILL: out of memory?"
    assert "the same command with hydra.sweep.dir=all" in ended.out
    become()
    ended = command(*WORDS, "seed=0,1,2,3,4,5,6,7,8")
    assert ended.code == 0, ended.err
    assert ran() == [*"123456", "resume 7"]
    assert set(statuses().values()) == {"finished"}
    assert command(*WORDS, "seed=0,1,2,3,4,5,6,7,8").code == 0
    assert ran() == []


@pytest.mark.parametrize(
    "subdir",
    [
        "a/b/${seed}",
        pytest.param("run ${hydra.job.num}", marks=pytest.mark.slow),
        pytest.param("${hydra.job.num}/run", marks=pytest.mark.slow),
    ],
)
def test_any_subdir_has_its_line_in_table_and_ledger(command: Command, jobs: Path, subdir: str) -> None:
    become(s1="kill")
    words = [*WORDS, "seed=0,1", f"hydra.sweep.subdir={subdir}"]
    assert command(*words).code == 1
    (jobs / "all" / "sweep.jsonl").unlink()  # as if the sweep had been killed as well
    assert statuses() == {"0": "finished", "1": "no summary"}
    become()
    assert command(*words).code == 0
    assert ran() == ["0", "1", "1"]
    assert statuses() == {"0": "finished", "1": "finished"}


@pytest.mark.parametrize("subdir", ["one", ".", "../${seed}", "/${seed}"])
def test_a_folder_that_is_no_jobs_own_is_refused_before_the_first(command: Command, jobs: Path, subdir: str) -> None:
    ended = command(*WORDS, "seed=0,1", f"hydra.sweep.subdir={subdir}")
    assert ended.code == 1
    assert "hydra.sweep.subdir must name, within the sweep's folder, a folder of its own for each job" in ended.err
    assert ran() == []


def test_the_folder_of_another_sweep_is_refused(command: Command, jobs: Path) -> None:
    subdir = "hydra.sweep.subdir=${hydra.job.num}"
    assert command(*WORDS, "seed=0,1", subdir).code == 0
    ended = command(*WORDS, "seed=2,3", subdir)
    assert "hydra.sweep.dir must be a new folder, or that of the same sweep" in ended.err
    assert ran() == ["0", "1"]


def test_one_sweep_at_a_time_is_in_a_folder(command: Command, jobs: Path) -> None:
    (jobs / "all").mkdir()
    holder = "import sys\nfrom pathlib import Path\nfrom hopscotch.system import lock\n"
    holder += "with lock(Path(sys.argv[1]), 'x'):\n    print('held', flush=True)\n    input()\n"
    path = os.pathsep.join([str(PROJECT_ROOT / "src")])
    words = [sys.executable, "-P", "-c", holder, str(jobs / "all")]
    with subprocess.Popen(
        words, env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"held\n"
        assert "is the folder of a sweep that is running" in command(*WORDS, "seed=0,1").err
        other.communicate(b"\n")
    assert command(*WORDS, "seed=0,1").code == 0


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """What a shell starts in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize(
    ("number", "sent"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_stops_all_in_order(command: Command, jobs: Path, number: signal.Signals, sent: int) -> None:
    become(s0="wait", s1="wait")
    script = f"while [ ! -e waits.txt ]; do sleep 0.05; done; sleep 0.3; kill -{int(number)} {os.getpid()}"
    with subprocess.Popen(["sh", "-c", script]):
        ended = command(*WORDS, "seed=0,1,2", "hydra.launcher.n_jobs=1")
    assert ended.code == sent
    assert ran() == ["0"]
    assert statuses()["0"] == "stopped"
    assert "look closer" in ended.out
    become()
    assert command(*WORDS, "seed=0,1,2").code == 0
    assert statuses() == dict.fromkeys("012", "finished")


def test_jobs_at_once_share_the_cores_and_keep_what_they_print(
    command: Command, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hopscotch.jobs.os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    composed, load = list[RunMode](), Loader.load_configuration
    monkeypatch.setattr(
        Loader,
        "load_configuration",
        lambda *arguments, **named: (composed.append(named["run_mode"]), load(*arguments, **named))[1],
    )
    become(s1="raise")
    ended = command(*WORDS, "seed=0,1", "hydra.launcher.n_jobs=2")
    assert ended.code == 1
    assert composed.count(RunMode.RUN) == 2, "each job once"
    assert {line.split()[-1] for line in Path("ran.txt").read_text().splitlines()} == {"4"}
    assert "ValueError: no" in next(Path("all").glob("*seed-1.log")).read_text()
    ended = command("-m", "model=dense", "seed=0", "hydra.launcher.n_jobs=0")
    assert "hydra.launcher.n_jobs must be at least 1, got 0." in ended.err


def test_jobs_end_with_whoever_runs_them(jobs: Path) -> None:
    become(s0="wait")
    ended = Jobs(2, logs=True).run(
        Job(jobs / f"run{seed}", [f"seed={seed}", f"hydra.run.dir=run{seed}"]) for seed in (0, 1)
    )
    assert next(ended).job.folder.name == "run1"
    started = time.time()
    ended.close()
    assert time.time() - started < 10


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_jobs_stop_in_order_when_their_sweep_is_killed(jobs: Path) -> None:
    become(s0="wait")
    program = "from pathlib import Path\nfrom hopscotch.jobs import Job, Jobs\n"
    program += "list(Jobs(1, logs=True).run([Job(Path('run'), ['seed=0', 'hydra.run.dir=run'])]))"
    path = os.pathsep.join([str(PROJECT_ROOT / "src")])
    sweep = subprocess.Popen([sys.executable, "-P", "-c", program], env=os.environ | {"PYTHONPATH": path})
    wait_for(jobs / "waits.txt")
    sweep.kill()
    sweep.wait()
    wait_for(jobs / "run" / "summary.json")
    assert json.loads((jobs / "run" / "summary.json").read_text())["status"] == "stopped"


def wait_for(path: Path, seconds: float = 30) -> None:
    end = time.time() + seconds
    while not (path.is_file() and (path.suffix == ".txt" or path.stat().st_size)):
        assert time.time() < end, f"{path} was not written"
        time.sleep(0.05)


def test_processes_are_not_started_from_the_process_of_a_sweep(command: Command, tones: Path, tmp_path: Path) -> None:
    """Lightning would run the whole sweep in each of them."""
    words = [*WORDS, "hydra/launcher=basic", *TINY_MODEL, *TINY_RUN, *tiny_folder(tones)]
    ended = command(*words, "trainer=ddp", "trainer.accelerator=cpu", "seed=0")
    assert ended.code == 1
    assert "a job of several processes needs one of its own, as hydra/launcher=processes gives it." in ended.err


@pytest.mark.slow
def test_a_sweep_of_jobs_of_two_processes(tones: Path, tmp_path: Path) -> None:
    words = [*WORDS, *TINY_MODEL, *TINY_RUN, *tiny_folder(tones), "trainer=ddp", "trainer.accelerator=cpu", "seed=0,1"]
    done = subprocess.run([sys.executable, str(PROJECT_ROOT / "train.py"), *words], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert statuses(tmp_path / "all") == {"0": "finished", "1": "finished"}


@pytest.mark.skipif(not has_plugin("hydra_optuna_sweeper"), reason="needs the extra sweep: hydra-optuna-sweeper")
@pytest.mark.filterwarnings("ignore")  # optuna 2, of what it is built on
def test_a_search_with_storage_goes_on_with_new_trials(command: Command, jobs: Path) -> None:
    words = ["hparams_search=optuna", "model=dense", "seed=0", "hydra.sweep.dir=all", "hydra.sweeper.n_trials=2"]
    words += ["hydra.sweeper.storage=sqlite:///all.db", "hydra.sweeper.study_name=mine"]
    for count in (2, 4):
        assert command(*words).code == 0
        rows = [json.loads(line) for line in Path("all/sweep.jsonl").read_text().splitlines()]
        assert len({row["folder"] for row in rows}) == count
