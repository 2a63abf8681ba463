"""The commands as processes of their own, watched by an audit hook from their first line on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hopscotch.system import PROJECT_ROOT
from tests.attacks.guard import SECRET, tree
from tests.attacks.hostile import CASES, make_outside
from tests.trained import write_run

WATCHED = """
import os, runpy, sys
from pathlib import Path
from tests.attacks.guard import WATCH
script, run = sys.argv[1], sys.argv[2]
sys.argv = sys.argv[1:2] + sys.argv[3:]
WATCH.roots = (run, os.environ["TMPDIR"], str(Path.home() / ".cache"), str(Path.home() / ".config"))
WATCH.foreign = run
sys.addaudithook(WATCH)
WATCH.is_on = True
try:
    runpy.run_path(script, run_name="__main__")
finally:
    WATCH.is_on = False
    print("seen:", WATCH.seen, file=sys.stderr)
"""
CHOSEN = {
    "gadget-encoder_shell": "predict",
    "pickle-zip": "predict",
    "interpolation-data.root_env": "report",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("good"), tones)


@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_process_does_nothing_with_a_hostile_folder(good: Path, tones: Path, tmp_path: Path, chosen: str) -> None:
    """Also where the environment asks torch to load whatever a checkpoint holds."""
    run, outside = tmp_path / "run", make_outside(tmp_path / "outside")
    shutil.copytree(good, run)
    (tmp_path / "temporary").mkdir()
    shutil.copy(run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")
    (case,) = (case for case in CASES if f"{case.kind}-{case.name}" == chosen)
    case.change(run, outside)
    before = tree(outside)
    command = CHOSEN[chosen]
    words = [f"run={run}", *([str(tones / "low" / "0.wav")] if command == "predict" else [])]
    environment = {
        **os.environ,
        "HOPSCOTCH_SECRET": SECRET,
        "TMPDIR": str(tmp_path / "temporary"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "temporary"),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT)]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, str(PROJECT_ROOT / "scripts" / f"{command}.py"), str(run), *words],
        cwd=run,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ended.stderr.splitlines()
    assert "seen: []" in lines, ended.stderr
    assert tree(outside) == before
    assert SECRET not in ended.stdout + ended.stderr
    assert (ended.returncode != 0) == case.refused
    assert len([line for line in lines if line.startswith("Error: ")]) == int(case.refused), ended.stderr
    assert "Traceback" not in ended.stderr
