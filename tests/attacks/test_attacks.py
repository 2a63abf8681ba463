"""A folder that somebody sends runs nothing, writes nothing elsewhere, shows no secret, and is refused in one sentence.

The good run that every hostile one is made of is read by the same commands without a word.
"""

import collections
import importlib
import inspect
import pkgutil
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig

import hopscotch
from hopscotch import restore
from hopscotch.plain import read_config
from hopscotch.registry import PLACES, check_stored, class_at
from hopscotch.run import attempt
from tests.attacks.guard import SECRET, Ended, assert_harmless, call, watched
from tests.attacks.hostile import CASES, Case, make_outside
from tests.tiny import CLASS_HZ, TINY_RUN, prompt, tiny_config, tiny_folder, write_tone

pytestmark = pytest.mark.filterwarnings("ignore")

NUM_LEAST, NUM_KINDS = 150, 12
MODEL = ("model=jump_attention", "model.encoder.attention_depth=1")


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `sweep/run`, another one to compare it with, and what is outside of it."""
    root = tmp_path_factory.mktemp("attacked")
    for name, hz in CLASS_HZ.items():
        for i in range(4):
            write_tone(root / "tones" / name / f"{i}.wav", hz * (1 + 0.01 * i), 0.12 + 0.02 * i)
    run = root / "sweep" / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hopscotch.run.AudioTask.measure_budgets", lambda _: None)
        summary = attempt(tiny_config(root / "tones", run, *MODEL), run, ["seed=0"], time.time(), is_job=False)
    assert summary["status"] == "finished", summary
    shutil.copytree(run, root / "other")
    return root


@pytest.fixture(scope="module", autouse=True)
def good_configuration_once(attacked: Path) -> Iterator[None]:
    """A configuration that a case leaves as it was is held to the rules once, not for a hundred predictions."""
    run, read = attacked / "sweep" / "run", restore.read_config
    good, config = (run / "config.yaml").read_bytes(), read(run)

    def read_config(run: Path, trust: Sequence[str] = ()) -> DictConfig:
        file = run / "config.yaml"
        is_good = file.is_file() and file.stat().st_size == len(good) and file.read_bytes() == good
        return config.copy() if is_good else read(run, trust)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore, "read_config", read_config)
        yield


@pytest.fixture
def scene(attacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sweep that may be spoilt, in the working folder, and an outside that must stay as it is."""
    monkeypatch.setenv("HOPSCOTCH_SECRET", SECRET)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "sweep"))  # through which Lightning writes checkpoints
    monkeypatch.chdir(tmp_path)
    shutil.copytree(attacked / "sweep", tmp_path / "sweep")
    make_outside(tmp_path / "outside")
    return tmp_path / "sweep" / "run"


def run_command(
    command: str, run: Path, attacked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ended:
    if command in ("resume", "start", "train"):
        return train(command, run, attacked, capsys, monkeypatch)
    if command in ("multirun", "again"):
        words = [
            "-m",
            "hydra/launcher=basic",
            *tiny_folder(attacked / "tones"),
            *TINY_RUN,
            f"hydra.sweep.dir={run.parent}/new",
        ]
        started = time.process_time()
        ended = prompt(monkeypatch, capsys)(*(words if command == "multirun" else [f"again={run}"]))
        mark = "Error: " if command == "again" and ended.code else ""  # words are refused without it
        return Ended(ended.code, ended.out, mark + ended.err, seconds=time.process_time() - started, kib=0)
    words = {
        "predict": [f"run={run}", attacked / "tones" / "low" / "0.wav"],
        "evaluate": [f"run={run}"],
        "report": [f"run={run}"],
        "compare": [run, attacked / "other"],
        "sweep": [f"sweep={run.parent}"],
    }
    return call(command, words[command], capsys)


def train(
    command: str, run: Path, attacked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Ended:
    """Go on with the run in `sweep/resumed`, or train in `sweep/new`, which somebody has prepared."""
    for name in ("report.summary.write_report", "run.explain_run"):
        monkeypatch.setattr(f"hopscotch.{name}", lambda *_: None)
    monkeypatch.setattr("hopscotch.run.AudioTask.measure_budgets", lambda _: None)
    folder = run.parent / ("new" if command == "train" else "resumed")
    cfg = tiny_config(attacked / "tones", folder, *MODEL, "trainer.max_epochs=2")
    cfg.ckpt_path = str(run / "checkpoints" / "last.ckpt") if command == "resume" else None
    cfg.init_from = str(run) if command == "start" else None
    capsys.readouterr()
    started = time.process_time()
    summary = attempt(cfg, folder, [], time.time(), is_job=False)
    seconds = time.process_time() - started
    out, err = capsys.readouterr()
    return Ended(int(summary["status"] != "finished"), out, err, seconds=seconds, kib=0)


@pytest.mark.parametrize("command", ["predict", "evaluate", "report", "compare", "sweep", "resume", "start"])
def test_a_good_run_is_read(
    scene: Path, attacked: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(scene.parent, scene.parent.parent / "outside") as seen:
        ended = run_command(command, scene, attacked, capsys, monkeypatch)
    assert_harmless(ended, seen, scene, refused=False)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}-{case.name}"[:80] for case in CASES])
def test_a_hostile_folder_does_nothing(
    scene: Path, attacked: Path, case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hopscotch.report.page.picture", lambda _: "")  # drawing takes most of the time of a page
    for module in ("report.run_page", "report.frontier", "evaluation"):
        monkeypatch.setattr(f"hopscotch.{module}.save", lambda *_: None)
    outside = scene.parent.parent / "outside"
    case.change(scene, outside)
    for command in case.commands:
        with watched(scene.parent, outside) as seen:
            ended = run_command(command, scene, attacked, capsys, monkeypatch)
        assert_harmless(ended, seen, scene, refused=case.refused)


def test_there_are_enough_of_them() -> None:
    kinds = collections.Counter(case.kind for case in CASES)
    assert len(CASES) >= NUM_LEAST
    assert len(kinds) >= NUM_KINDS, kinds


def every_callable() -> set[str]:
    """The full names of all that can be called through our modules, what they import included."""
    found: set[str] = set()
    seen: set[int] = set()
    for package in (hopscotch, importlib.import_module("scripts.studies")):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if callable(value):
                    found.add(f"{info.name}.{name}")
                if (inspect.isclass(value) or inspect.ismodule(value)) and id(value) not in seen:
                    seen.add(id(value))
                    found.update(f"{info.name}.{name}.{key}" for key, inner in vars(value).items() if callable(inner))
    return found


def is_allowed(place: str, name: str) -> bool:
    try:
        class_at(place, name, "config.yaml")
    except ValueError:
        return False
    return True


def test_no_callable_of_ours_is_a_target_but_what_is_registered() -> None:
    names = every_callable()
    assert len(names) > 5000
    places = ("model.encoder", "data", "frontend", "task", "augment.waveform", "trainer", "optimizer", "scheduler")
    allowed = [(place, name) for name in names for place in places if is_allowed(place, name)]
    assert all(name in PLACES[place].names for place, name in allowed)
    assert sorted(name for place, name in allowed if place == "model.encoder") == [
        "hopscotch.models.jumps.JumpAttention",
        "hopscotch.models.jumps.JumpStack",
        "hopscotch.models.stack.Stack",
        "hopscotch.models.strides.LearnedStack",
    ]


OWN = """
from hopscotch.models.stack import Stack
from os import system
class Mine(Stack):
    pass
class Foreign:
    def __init__(self, **arguments):
        open("canary", "w")
def function(**arguments):
    open("canary", "w")
"""


def test_a_class_of_a_trusted_module_is_taken_for_one_call(
    scene: Path, attacked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a module that the user names, and only what is a class of the right kind and defined there."""
    (scene.parent.parent / "own_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(scene.parent.parent)
    file = scene / "config.yaml"
    config = read_config(file)
    for name, words, fault in (
        ("Mine", [], "trust=<module> allows"),
        ("Mine", ["trust=other"], "trust=<module> allows"),
        ("Foreign", ["trust=own_models"], "must be a subclass of hopscotch.models.encoder.Encoder"),
        ("function", ["trust=own_models"], "must be a class that is defined where it is named"),
        ("system", ["trust=own_models"], "must be a class that is defined where it is named"),
        ("Stack", ["trust=own_models"], "must be a class that is defined where it is named"),
        ("Absent", ["trust=own_models"], "must be a class that is defined where it is named"),
        ("Mine", ["trust=own models"], "trust must be the name of a module"),
    ):
        stored = file.read_text().replace("hopscotch.models.jumps.JumpAttention", f"own_models.{name}")
        (scene / "config.yaml").write_text(stored)
        ended = call("evaluate", [f"run={scene}", *words], capsys)
        assert ended.code == 1
        assert fault in ended.errors[0]
        file.write_text(stored.replace(f"own_models.{name}", "hopscotch.models.jumps.JumpAttention"))
    assert not (scene.parent.parent / "canary").exists()
    config["model"]["encoder"]["_target_"] = "own_models.Mine"
    check_stored(config, "config.yaml", ["own_models"])
