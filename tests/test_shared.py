"""An exported model is data alone, answers as its run does, and is refused when it was changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hopscotch import cli, load
from hopscotch.shared import export, hash_of
from tests.trained import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tones: Path) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), tones)


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    return export(run, tmp_path / "model")


def edit(folder: Path, change: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Change config.json; `sealed` writes its new hash into the manifest, as a stranger would."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    if sealed:
        seal(folder)


def seal(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: hash_of(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_an_exported_model_answers_as_its_run_does(run: Path, model: Path, tones: Path) -> None:
    clip = min((tones / "low").iterdir())
    there, here = load(run)(clip), load(model)(clip)
    assert here == there
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "manifest.json", "weights.safetensors"]
    assert str(tones) not in (model / "config.json").read_text()


def test_the_command_exports_and_predicts(
    run: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["export", str(run), "--format", "hopscotch"])
    folder = capsys.readouterr().out.strip()
    assert folder == f"{run.name}-hopscotch"
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", folder, str(min((tones / "low").iterdir()))])
    assert end.value.code == 0
    assert min((tones / "low").iterdir()).name in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"must be a new folder, got .*-hopscotch, which is there already"):
        cli.main(["export", str(run)])


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_changed_file_is_named(model: Path, name: str) -> None:
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must be as manifest.json says: it was changed or cut"):
        load(model)


def shell(content: dict[str, Any]) -> None:
    content["config"]["model"]["encoder"]["_target_"] = "os.system"


def huge(content: dict[str, Any]) -> None:
    content["config"]["model"]["encoder"]["block"]["dim"] = 8192


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shell, "os.system"),
        (huge, "hold more than"),
        (lambda content: content.update(classes=["a", "a"]), "must name each class once"),
        (lambda content: content.update(config=[]), "must have a map at config"),
        (lambda content: content.update(clip_seconds={"mean": -1, "longest": 2}), "clip_seconds above 0"),
    ],
    ids=["shell", "huge", "classes", "config", "seconds"],
)
def test_a_hostile_model_is_refused(model: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit(model, change)
    with pytest.raises(ValueError, match=message):
        load(model)


def test_weights_that_are_none_or_not_finite_are_refused(model: Path) -> None:
    weights = load_file(model / "weights.safetensors")
    name = next(name for name in weights if weights[name].is_floating_point())
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, model / "weights.safetensors")
    seal(model)
    with pytest.raises(ValueError, match="numbers that are not finite"):
        load(model)
    (model / "weights.safetensors").write_bytes(b"\x80\x04" * 100_000)
    seal(model)
    with pytest.raises(ValueError, match="must be a file of safetensors"):
        load(model)


def test_a_link_is_refused_and_so_is_another_format(model: Path, tmp_path: Path) -> None:
    (model / "weights.safetensors").rename(tmp_path / "weights")
    (model / "weights.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(ValueError, match="must be a file, and no link"):
        load(model)
    (model / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="must have format='hopscotch model' and version=1"):
        load(model)
    with pytest.raises(ValueError, match="ckpt must not be given"):
        load(model, ckpt=tmp_path / "weights")
