"""The best checkpoint and the last one, each state written once; and the average of the weights."""

import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hopscotch.training.callbacks import AveragedWeights, BestAndLast, MovingAverage

LOSSES = (3.0, 1.0, 2.0, 0.5)  # on validation: the third epoch is not the best


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor) -> Tensor:
        return (self.weight - batch).square().mean()

    def validation_step(self, batch: Tensor) -> None:
        self.log("val/loss", LOSSES[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Counting(Trainer):
    written: list[tuple[int, str]]  # (epoch, file)

    def save_checkpoint(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        self.written.append((self.current_epoch, Path(filepath).name))
        super().save_checkpoint(filepath, *args, **kwargs)


def fit(
    folder: Path,
    epochs: int,
    kind: type[ModelCheckpoint] = BestAndLast,
    ckpt_path: Path | None = None,
    val_check_interval: float = 1.0,
) -> Counting:
    keep = kind(folder, "best", monitor="val/loss", save_last=True, enable_version_counter=False)
    trainer = Counting(
        max_epochs=epochs,
        val_check_interval=val_check_interval,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[keep],
    )
    trainer.written = []
    clips = torch.utils.data.DataLoader(torch.ones(6))  # pyright: ignore[reportArgumentType]
    trainer.fit(Module(), clips, clips, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]


def test_of_states_that_are_equally_good_the_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LOSSES", (3.0, 1.0, 1.0, 2.0))
    fit(tmp_path, 4)
    assert [read(tmp_path / name)["epoch"] for name in ("best.ckpt", "last.ckpt")] == [2, 3]


def test_a_state_is_written_once(tmp_path: Path) -> None:
    trainer = fit(tmp_path, 4)
    assert trainer.written == [(0, "best.ckpt"), (1, "best.ckpt"), (2, "last.ckpt"), (3, "best.ckpt")]
    names = ("best.ckpt", "last.ckpt", "previous.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {*names, *(f"{name}.sha256" for name in names)}
    assert read(tmp_path / "previous.ckpt")["epoch"] == 2


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_copy_holds_what_lightning_would_have_written(tmp_path: Path, epochs: int) -> None:
    for kind in (BestAndLast, ModelCheckpoint):
        fit(tmp_path / kind.__name__, epochs, kind)
    for name in ("best.ckpt", "last.ckpt"):
        copied, written = (read(tmp_path / kind.__name__ / name) for kind in (BestAndLast, ModelCheckpoint))
        assert copied.keys() == written.keys()
        for part in ("epoch", "global_step", "state_dict", "loops", "optimizer_states"):
            assert copied[part] == written[part]


def test_the_last_is_the_last_even_where_another_is_the_best(tmp_path: Path) -> None:
    fit(tmp_path, 3)
    assert [read(tmp_path / name)["epoch"] for name in ("best.ckpt", "last.ckpt")] == [1, 2]


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_run_goes_on_from_where_it_ended(tmp_path: Path, epochs: int) -> None:
    straight = fit(tmp_path / "straight", 4)
    fit(tmp_path / "broken", epochs)
    resumed = fit(tmp_path / "broken", 4, ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert resumed.written == straight.written[epochs:]
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (read(tmp_path / folder / name) for folder in ("broken", "straight"))
        assert one["state_dict"] == other["state_dict"]
        assert one["epoch"] == other["epoch"]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("folder", ["ended", "elsewhere"])
@pytest.mark.parametrize(("every", "step"), [(3, 12), (4, 10)])  # batches of six in an epoch
def test_the_last_state_stays_where_none_follows(tmp_path: Path, folder: str, every: int, step: int) -> None:
    """Its validation was the last one of a run whose epochs have some in the middle."""
    last = tmp_path / "ended" / "last.ckpt"
    fit(last.parent, 2, val_check_interval=every)
    before = last.read_bytes()
    assert read(last)["global_step"] == step
    resumed = fit(tmp_path / folder, 2, ckpt_path=last, val_check_interval=every)
    assert resumed.global_step == 12
    assert [name for _, name in resumed.written] == []
    assert (tmp_path / folder / "last.ckpt").read_bytes() == before


def test_a_run_that_goes_on_elsewhere_knows_the_best_so_far(tmp_path: Path) -> None:
    fit(tmp_path / "broken", 3)
    # LOSSES[3] is the best of all: what follows must not be, or nothing would tell who was the best before.
    resumed = fit(tmp_path / "resumed", 3, ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert read(tmp_path / "resumed" / "best.ckpt")["epoch"] == 1
    keep = resumed.checkpoint_callbacks[0]
    assert isinstance(keep, ModelCheckpoint)
    assert keep.best_model_path == str(tmp_path / "resumed" / "best.ckpt")
    assert keep.best_model_score == LOSSES[1]


@pytest.mark.parametrize(("later", "best"), [(2.0, 1), (0.5, 3)])
def test_what_follows_is_compared_with_the_best_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: float, best: int
) -> None:
    fit(tmp_path / "broken", 3)
    monkeypatch.setitem(globals(), "LOSSES", (*LOSSES[:3], later))
    resumed = fit(tmp_path / "resumed", 4, ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert read(tmp_path / "resumed" / "best.ckpt")["epoch"] == best
    assert read(tmp_path / "resumed" / "last.ckpt")["epoch"] == 3
    assert resumed.written[0][0] == 3


def test_a_best_checkpoint_that_is_gone_is_missed_aloud(tmp_path: Path) -> None:
    fit(tmp_path / "broken", 3)
    (tmp_path / "broken" / "best.ckpt").unlink()
    with pytest.warns(UserWarning, match="the best checkpoint so far, is not there"):
        fit(tmp_path / "resumed", 4, ckpt_path=tmp_path / "broken" / "last.ckpt")
    assert read(tmp_path / "resumed" / "best.ckpt")["epoch"] == 3


@pytest.mark.parametrize("kept", ["/etc/passwd", "../x/other.ckpt", "..", "", ".", 5, None, ["best.ckpt"]])
def test_no_path_in_a_checkpoint_is_followed(tmp_path: Path, kept: object) -> None:
    """Whatever it names: the best so far is a checkpoint beside the one that is loaded, or there is none."""
    fit(tmp_path / "broken", 3)
    (tmp_path / "x").mkdir()
    shutil.copy(tmp_path / "broken" / "best.ckpt", tmp_path / "x" / "other.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.ckpt_path = str(tmp_path / "broken" / "last.ckpt")
    keep = BestAndLast(tmp_path / "resumed", "best", monitor="val/loss")
    keep.on_load_checkpoint(trainer, Module(), {})
    score = torch.tensor(1.0)
    named = {str(kept): score}
    state = {"dirpath": str(tmp_path / "resumed"), "best_model_path": kept, "best_model_score": score}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keep.load_state_dict({**state, "kth_best_model_path": kept, "best_k_models": named, "last_model_path": kept})
    assert (keep.best_model_path, keep.kth_best_model_path, keep.best_k_models) == ("", "", {})
    assert Path(keep.last_model_path).parent in (tmp_path / "resumed", Path())
    assert not (tmp_path / "resumed").exists()


def test_more_than_one_best_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^callbacks\.checkpoint\.save_top_k must be 1 .* got 3\.$"):
        BestAndLast(tmp_path, "best", monitor="val/loss", save_top_k=3)


# The average.


class OneWeight(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("level", torch.zeros(()))


def test_every_step_moves_the_average_by_its_share_of_the_way_to_the_weights_and_buffers() -> None:
    module, average = OneWeight(), AveragedWeights(decay=0.9)
    trainer = MagicMock(spec=Trainer, global_step=0)
    average.setup(trainer, module, "fit")
    for value in (1.0, 2.0, 3.0):
        trainer.global_step += 1
        module.weight.data.fill_(value)
        module.get_buffer("level").fill_(10 * value)
        average.on_train_batch_end(trainer, module, None, None, 0)
    average.on_train_end(trainer, module)
    # 1, then 1 + 0.1 (2 - 1) = 1.1, then 1.1 + 0.1 (3 - 1.1) = 1.29
    assert module.weight.item() == pytest.approx(1.29)
    assert module.get_buffer("level").item() == pytest.approx(12.9)


def test_a_wrong_decay_names_key_rule_and_value() -> None:
    with pytest.raises(ValueError, match=r"callbacks.average.decay must lie in \[0, 1\], got 1.5\."):
        AveragedWeights(decay=1.5)


def test_the_average_is_that_of_torch_and_follows_a_tensor_that_is_replaced() -> None:
    class WithAnInt(OneWeight):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

    module, decay = WithAnInt(), 0.9
    ours = MovingAverage(module, decay)
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    for step in range(4):
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(step)))
        module.norm.get_buffer("num_batches_tracked").add_(10)
        module.level = torch.tensor(float(step))  # another tensor, not another value
        ours.update_parameters(module)
        theirs.update_parameters(module)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
