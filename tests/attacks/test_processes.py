"""The commands as processes of their own, watched by an audit hook from their first line on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from matplotlib import font_manager

from hopscotch.system import PROJECT_ROOT
from tests.attacks.guard import SECRET, tree
from tests.attacks.hostile import CASES, make_outside

WATCHED = """
import json, os, runpy, sys
from pathlib import Path
from tests.attacks.guard import WATCH
sys.addaudithook(WATCH)
for script, run, *words in json.loads(sys.argv[1]):
    sys.argv[:] = [script, *words]
    os.chdir(run)
    caches = (os.environ["XDG_CACHE_HOME"], os.environ["MPLCONFIGDIR"])
    homes = (*caches, str(Path.home() / ".cache"), str(Path.home() / ".config"))
    WATCH.roots = (run, os.environ["TMPDIR"], *homes)
    WATCH.foreign, WATCH.seen, code = run, [], 0
    WATCH.is_on = True
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = 1 if isinstance(end.code, str) else end.code or 0
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    finally:
        WATCH.is_on = False
    print("seen:", WATCH.seen, "code:", code, file=sys.stderr, flush=True)
"""
CHOSEN = {
    "gadget-encoder_shell": "predict",
    "pickle-zip": "predict",
    "interpolation-data.root_env": "report",
}


def test_a_process_does_nothing_with_hostile_folders(trained: Path, tones: Path, tmp_path: Path) -> None:
    """One after the other; also where the environment asks torch to load whatever a checkpoint holds."""
    assert font_manager.fontManager.ttflist  # or a process would ask a program for the fonts, once
    outside, temporary = make_outside(tmp_path / "outside"), tmp_path / "temporary"
    temporary.mkdir()
    calls, cases = [], []
    for chosen, command in CHOSEN.items():
        run = Path(shutil.copytree(trained, tmp_path / chosen))
        shutil.copy(run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")
        cases += [case for case in CASES if f"{case.kind}-{case.name}" == chosen]
        cases[-1].change(run, outside)
        script = str(PROJECT_ROOT / "scripts" / f"{command}.py")
        words = [f"run={run}", *([str(tones / "low" / "0.wav")] if command == "predict" else [])]
        calls.append([script, str(run), *words])
    assert len(cases) == len(calls)
    before = tree(outside)
    environment = {
        **os.environ,
        "HOPSCOTCH_SECRET": SECRET,
        "TMPDIR": str(temporary),
        "TORCHINDUCTOR_CACHE_DIR": str(temporary),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT / "src"), str(PROJECT_ROOT)]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(calls)], env=environment, capture_output=True, text=True, check=False
    )
    lines = ended.stderr.splitlines()
    told = [line for line in lines if line.startswith("seen: ")]
    assert len(told) == len(cases), ended.stderr
    for line, case in zip(told, cases, strict=True):
        assert line.startswith("seen: [] code: "), ended.stderr
        assert (line != "seen: [] code: 0") == case.refused
    assert len([line for line in lines if line.startswith("Error: ")]) == sum(case.refused for case in cases)
    assert tree(outside) == before
    assert SECRET not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
