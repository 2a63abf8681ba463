"""A checkpoint that does not fit is told in one message."""

from pathlib import Path

import pytest
import torch
from torch import nn

from hopscotch.training.checkpoint import load_weights


def make_net(width: int = 3) -> nn.Module:
    return nn.ModuleDict({f"layer{i}": nn.Linear(2, width) for i in range(4)})


def kept(net: nn.Module, path: Path) -> Path:
    torch.save({"state_dict": net.state_dict()}, path)
    return path


def test_weights_that_fit_are_taken(tmp_path: Path) -> None:
    net, other = make_net(), make_net()
    load_weights(net, kept(other, tmp_path / "a.ckpt"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_weights_missing_and_unknown_are_named_a_few_of_each(tmp_path: Path) -> None:
    path = kept(nn.ModuleDict({"strange": nn.Linear(2, 3)}), tmp_path / "a.ckpt")
    rule = "ckpt must be a checkpoint of the run's own model, got .*a.ckpt: it lacks layer0.weight, .* and 3 more; "
    with pytest.raises(ValueError, match=rule + "it has strange.weight, strange.bias, which the model has not"):
        load_weights(make_net(), path)


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    path = kept(make_net(width=5), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"layer0.weight \(\(5, 2\) there, \(3, 2\) in the model\)"):
        load_weights(make_net(), path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ckpt must be a checkpoint that train.py wrote, got .*a.ckpt"):
        load_weights(make_net(), path)


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save(make_net().state_dict(), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"ckpt must be a checkpoint that train\.py wrote"):
        load_weights(make_net(), tmp_path / "a.ckpt")


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ckpt must be a checkpoint file, got .*none\.ckpt, which is not there"):
        load_weights(make_net(), tmp_path / "none.ckpt")
