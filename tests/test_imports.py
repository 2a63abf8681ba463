"""Imports run one way, and nothing heavy is loaded before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "hopscotch"

# A module may import those of earlier rows, and of its own package. Same row: side by side, out of each other's sight.
TIERS = (
    {"plain", "intervals"},
    {"files", "registry", "torch_file"},
    {"detection", "known"},
    {"system", "progress"},  # run where no package is
    {"types", "config", "jobs"},
    {"compute", "keyed"},
    {"data", "layers"},
    {"frontend"},  # pools with layers
    {"whisper_mel"},
    {"models"},
    {"training"},
    {"report", "above"},
    {"build", "metrics", "explain", "detection_figures", "dearer"},
    {"restore", "conditions", "controls", "answers", "look"},
    {"shared", "start", "resume"},
    {"ship"},
    {"recommend", "latency"},
    {"evaluation", "stream", "microphone", "against", "baselines"},
    {"standing"},
    {"sweep"},
    {"run", "evaluate", "predict", "audit", "listen"},
    {"original", "disagreements"},
    {"cascade", "compare", "doctor", "train"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, tier in enumerate(TIERS) for name in tier}
HEAVY = {"torch", "torchaudio", "lightning", "matplotlib", "numpy"}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def name_of(path: Path) -> str:
    """The name that stands in TIERS: the file's own, or that of its package."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The full names that a file imports, at its top or inside a function; what only a type checker reads, too."""
    return imported_by(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path)


def imported_by(nodes: Iterable[ast.AST], path: Path | None = None) -> set[str]:
    """The full names that these statements import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} has a relative import; one name has one path"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def house_names(names: set[str]) -> set[str]:
    """The modules and packages of ours among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("hopscotch.")} - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    own = name_of(path)
    assert own in RANK, f"{own} has no place in TIERS"
    wrong = {name for name in house_names(imported(path)) if name != own and RANK[name] >= RANK[own]}
    assert wrong == set()


def test_the_tiers_name_what_a_wrong_import_is(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from hopscotch.run import train\n    import hopscotch.models.audio_model\n")
    assert house_names(imported(file)) == {"run", "models"}


def test_the_package_imports_neither_its_scripts_nor_its_tests() -> None:
    outside = {"train", "scripts", "tests"}
    assert [path for path in MODULES if outside & {name.split(".")[0] for name in imported(path)}] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_matplotlib_is_imported_where_a_picture_is_drawn(path: Path) -> None:
    """Of ours, that is: torchmetrics, which Lightning imports, brings its own."""
    at_the_top = ast.parse(path.read_text(encoding="utf-8")).body
    names = {alias.name for node in at_the_top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in at_the_top if isinstance(node, ast.ImportFrom)}
    assert [name for name in names if name.split(".")[0] == "matplotlib"] == []


def test_models_and_layers_know_neither_lightning_nor_hydra() -> None:
    plain = {"types", "compute", "frontend", "layers", "models"}
    frameworks = {"lightning", "hydra", "omegaconf"}
    files = [path for path in MODULES if name_of(path) in plain]
    assert [path for path in files if frameworks & {name.split(".")[0] for name in imported(path)}] == []


def test_only_build_imports_hydra_utils() -> None:
    users = [path.name for path in MODULES if any(name.startswith("hydra.utils") for name in imported(path))]
    assert users in ([], ["build.py"])


def test_config_imports_only_the_standard_library_and_hydra() -> None:
    names = set().union(*(imported(path) for path in MODULES if name_of(path) == "config"))
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "hydra", "omegaconf", "hopscotch"}
    assert house_names(names) <= {
        "config",
        "system",
        "plain",
        "registry",
        "known",
        "torch_file",
    }  # which import nothing heavy either


def loaded_by(program: str, folder: Path) -> set[str]:
    """The packages that a process has loaded when the program ends."""
    end = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", program + end], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("form", ["--json", *(pytest.param(form, marks=pytest.mark.slow) for form in ("--csv", ""))])
def test_a_prediction_loads_nothing_that_trains_or_draws(form: str, trained: Path, tones: Path, tmp_path: Path) -> None:
    """Of a folder too: its files are found without the class that trains on them."""
    program = (
        "from hopscotch import load\n"
        "from hopscotch.cli import main\n"
        f"print(load({str(trained)!r})({str(next(tones.rglob('*.wav')))!r}).label)\n"
        "try:\n"
        f"    main(['predict', {str(trained)!r}, {str(tones)!r}, *{form.split()!r}])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
    )
    loaded = loaded_by(program, tmp_path)
    assert "torchaudio" in loaded
    assert loaded & {"lightning", "hydra", "matplotlib", "torchmetrics", "tensorboard", "sympy", "sklearn"} == set()


def test_what_looks_for_packages_imports_none() -> None:
    (path,) = (path for path in MODULES if name_of(path) == "system")
    at_the_top = ast.parse(path.read_text(encoding="utf-8")).body
    assert {name.split(".")[0] for name in imported_by(at_the_top)} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "words",
    [["train.py", "--help"], ["train.py", "--cfg", "job"], ["scripts/benchmark.py", "--help"]],
    ids=["help", "cfg", "benchmark"],
)
def test_nothing_heavy_is_loaded_to_print_help_or_the_config(words: list[str], tmp_path: Path) -> None:
    program = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('loaded', sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr))\n"
        f"sys.argv = {words!r}\n"
        f"runpy.run_path({str(ROOT / words[0])!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "loaded []"
