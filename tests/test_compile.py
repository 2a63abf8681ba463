"""`trainer.compile`: the same model, faster; refused where it could do nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hopscotch.build import build_model
from hopscotch.layers.block import TransformerBlock
from hopscotch.system import PROJECT_ROOT
from tests.tiny import tiny_config

STATIC = {"dense": 3, "skip_attention": 3, "skip_transformer": 3, "jump_attention": 4}


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What would be compiled: compiling itself takes a minute."""
    modules: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: modules.append(self))
    monkeypatch.setattr(torch, "__file__", "/torch/__init__.py")  # the checkout may lie where no compiler reads it
    return modules


@pytest.mark.parametrize("name", STATIC)
def test_whole_transformer_blocks_are_compiled(name: str, tmp_path: Path, compiled: list[nn.Module]) -> None:
    build_model(tiny_config(tmp_path, tmp_path, f"model={name}", "trainer.compile=true"), num_classes=3)
    assert [type(module) for module in compiled] == [TransformerBlock] * STATIC[name]


def test_nothing_is_compiled_unless_asked_for(tmp_path: Path, compiled: list[nn.Module]) -> None:
    build_model(tiny_config(tmp_path, tmp_path, "model=dense"), num_classes=3)
    assert compiled == []


@pytest.mark.parametrize("name", ["learned_skip", "skip_layer"])
def test_a_model_of_decisions_alone_says_that_there_is_nothing_to_compile(name: str, tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, tmp_path, f"model={name}", "trainer.compile=true")
    with pytest.raises(ValueError, match=rf"trainer\.compile must be false for model={name}"):
        build_model(cfg, num_classes=3)


def test_a_missing_compiler_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = tiny_config(tmp_path, tmp_path, "model=dense", "trainer.compile=true")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler on the CPU, and 'no-such-compiler' is not found"):
        build_model(cfg, num_classes=3)


SAME = """
import torch
from hopscotch.build import build_model
from hopscotch.config.compose import compose

def build(value):
    return build_model(compose(["model=dense", "size=tiny", f"trainer.compile={value}"]), num_classes=3).eval()

plain, fast = build("false"), build("true")
fast.load_state_dict(plain.state_dict())
for samples in (8000, 10400):
    waveform, lengths = torch.randn(3, samples), torch.tensor([samples, samples - 1800, 3600])
    torch.testing.assert_close(fast(waveform, lengths).logits, plain(waveform, lengths).logits, rtol=0, atol=1e-5)
"""


def test_a_folder_that_the_compiler_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "__file__", "/my tools/torch/__init__.py")
    cfg = tiny_config(tmp_path, tmp_path, "model=dense", "trainer.compile=true")
    with pytest.raises(ValueError, match="needs torch in a folder without blanks on the CPU, got /my tools/torch"):
        build_model(cfg, num_classes=3)


@pytest.mark.skipif(" " in torch.__file__, reason="torch's compiler does not quote its own path")
@pytest.mark.slow  # a minute of compiling
def test_a_compiled_model_says_the_same_and_keeps_the_names_of_its_weights() -> None:
    # In a process of its own: the checks of shapes that tests switch on cannot be compiled.
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT / "src")}
    ended = subprocess.run([sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
