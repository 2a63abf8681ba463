"""The wheel, installed outside of the checkout, is the whole application."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from hopscotch.system import PROJECT_ROOT

FSDD = PROJECT_ROOT.parent / "shared" / "data" / "fsdd"
SMOKE = ("trainer=smoke", "size=tiny", "model=skip_transformer", "callbacks=quiet", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy of the sources, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("src", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(PROJECT_ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(out)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that has only the libraries of this one; the command is returned."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=bare())
    (site,) = place.glob("lib/python*/site-packages")
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    code = (
        f"import sys; sys.path += {libraries}; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]"
    )
    (site / "libraries.pth").write_text(code + "\n")
    return place / "bin" / "hopscotch"


def bare() -> dict[str, str]:
    """Return the environment variables without the path on which the checkout may stand."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(command: Path, *words: str, cwd: Path) -> str:
    done = subprocess.run([command, *words], cwd=cwd, capture_output=True, text=True, env=bare())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_module_and_every_configuration(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = PROJECT_ROOT / "src"
    wanted = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    wanted |= {str(path.relative_to(source)) for path in source.rglob("templates/*")}
    wanted |= {f"hopscotch/{path.relative_to(PROJECT_ROOT)}" for path in (PROJECT_ROOT / "conf").rglob("*.yaml")}
    assert wanted | {"hopscotch/py.typed"} == {name for name in names if "dist-info" not in name}


def test_the_installed_command_works_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert "All is well" in run(installed, "doctor", cwd=tmp_path)
    data = [f"data.root={FSDD}", "data=fsdd"] if FSDD.is_dir() else ["data.num_train=60", "data.num_val=20"]
    trained = run(installed, "train", *data, *SMOKE, cwd=tmp_path)
    folder = Path(trained.splitlines()[-1])
    assert folder.parent == tmp_path / "outputs"
    assert folder.name in run(installed, "runs", cwd=tmp_path)
    if FSDD.is_dir():
        clip = next(FSDD.rglob("*.wav"), None) or next(FSDD.rglob("*.flac"))
        answer = run(installed, "predict", "latest", str(clip), cwd=tmp_path)
        assert answer.rstrip().endswith(clip.name)
    where = [str(installed.with_name("python")), "-c", "import hopscotch; print(hopscotch.__file__)"]
    assert (
        str(installed.parent.parent)
        in subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, env=bare()).stdout
    )
