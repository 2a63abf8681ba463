"""submitit, which starts the jobs of a sweep on Slurm, and here in processes of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hopscotch.system import PROJECT_ROOT
from tests.tiny import TINY_MODEL, TINY_RUN, has_plugin, tiny_folder


@pytest.mark.skipif(
    not has_plugin("hydra_submitit_launcher"), reason="needs the extra cluster: hydra-submitit-launcher"
)
def test_submitit_runs_each_job_in_a_process_of_its_own_and_the_sweep_tells_of_one_that_failed(
    tones: Path, tmp_path: Path
) -> None:
    words = ["-m", "hydra/launcher=submitit_local", *TINY_MODEL, *TINY_RUN, *tiny_folder(tones)]
    words += ["model=dense", "compute.target=auto,0.01", f"hydra.sweep.dir={tmp_path / 'all'}"]
    ended = subprocess.run(
        [sys.executable, PROJECT_ROOT / "train.py", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended.stderr
    rows = [json.loads(line) for line in (tmp_path / "all" / "sweep.jsonl").read_text().splitlines()]
    jobs = {row["folder"][0]: row for row in rows}
    assert {number: job["status"] for number, job in jobs.items()} == {"0": "finished", "1": "failed"}
    assert "has no meaning for model=dense" in jobs["1"]["error"]
    assert len(list((tmp_path / "all" / ".submitit").glob("*/*_result.pkl"))) == 2
    assert "1 of 2 jobs failed" in ended.stdout
    assert (tmp_path / "all" / "index.html").is_file()
