"""weights.py: classes weigh what is given in the loss of training, and nothing else changes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig

from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.training.classify import ClassificationTask
from hopscotch.training.weights import by_class, check_weights
from tests.tiny import build, make_batch, tiny_config


def classification(cfg: DictConfig) -> tuple[ClassificationTask, AudioDataModule]:
    task, data = build(cfg)
    assert isinstance(task, ClassificationTask)
    assert task.class_weights is not None
    return task, data


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"hihg": 2.0}, "task.class_weights must name classes of the data, got hihg. Did you mean high?"),
        ({"zzz": 2.0}, "got zzz. They are high, low."),
        ({"high": 0}, "task.class_weights must be numbers above 0, got high: 0."),
        ({"high": "much"}, "got high: much."),
        ({"low": True}, "got low: True."),
        ({"low": float("nan")}, "got low: nan."),
    ],
)
def test_what_is_no_class_and_what_is_no_weight_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=r"task\.class_weights") as caught:
        check_weights(given, ["high", "low"])
    assert words in str(caught.value)


@pytest.mark.parametrize("typed", ["task.class_weights=even", "task.class_weights=[1,2]", "task.class_weights=2"])
def test_other_values_are_refused_before_data_are_read(typed: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.class_weights must be balanced, null, or a map"):
        compose([typed])


def test_a_class_that_is_not_given_weighs_one() -> None:
    given = check_weights({1: 3}, ["0", "1"])  # as Hydra reads {1: 3}
    found = by_class(given, ["0", "1"], torch.ones(2))
    assert found is not None
    assert found.tolist() == [1.0, 3.0]
    assert by_class(None, ["0", "1"], torch.ones(2)) is None


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("{high: 3.0}", [3.0, 1.0, 1.0]), ("balanced", [1.0, 1.0, 1.0])],
)
def test_a_class_weighs_as_given_in_training_alone(
    typed: str, wanted: list[float], tones: Path, tmp_path: Path
) -> None:
    task, _ = classification(tiny_config(tones, tmp_path, "model=dense", f"task.class_weights={typed}"))
    assert task.class_weights is not None
    assert task.class_weights.tolist() == pytest.approx(wanted)
    batch = make_batch(6)
    task.eval()
    output = task.model(batch.waveform, batch.lengths)
    plain = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(task.losses(output, batch), plain)
    task.train()
    torch.testing.assert_close(task.losses(output, batch), plain * torch.tensor(wanted)[batch.labels])


def test_weights_and_draws_that_both_make_up_for_rare_classes_are_warned_of(tones: Path, tmp_path: Path) -> None:
    words = ("model=dense", "task.class_weights=balanced", "data.balance=classes")
    with pytest.warns(UserWarning, match=r"task\.class_weights=balanced and data\.balance=classes make up for rare"):
        classification(tiny_config(tones, tmp_path, *words))


def test_balanced_weights_make_classes_count_alike(tones: Path, tmp_path: Path) -> None:
    task, data = classification(tiny_config(tones, tmp_path, "model=dense", "task.class_weights=balanced"))
    clips = data.clips["train"]
    data.clips["train"] = [clip for clip in clips if clip.label == 0] + [clip for clip in clips if clip.label == 1][:1]
    task.look_at(data)
    labels = torch.tensor([clip.label for clip in data.clips["train"]])
    assert task.class_weights is not None
    sums = torch.zeros(3).index_add(0, labels, task.class_weights[labels])
    assert sums[0] == pytest.approx(sums[1])
