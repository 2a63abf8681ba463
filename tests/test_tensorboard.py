from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore[reportAttributeAccessIssue]

from hopscotch.report.split_logger import SplitLogger, place_of
from hopscotch.report.tensorboard import SkipDashboard
from hopscotch.types import SkipTrace
from tests.hand_made import (
    FourClips,
    Replay,
    both_trace,
    dense_trace,
    jump_trace,
    make_trace,
    make_trainer,
    stride_trace,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and is not empty", "ignore:.*`log_every_n_steps`"
)


def fit(
    folder: Path,
    trace: SkipTrace,
    *,
    epochs: int = 1,
    dashboard: SkipDashboard | None = None,
    skips: frozenset[str] | None = None,
) -> EventAccumulator:
    """Train on a hand-made trace, test, and read the event files back."""
    logger = SplitLogger(str(folder))
    dashboard = dashboard or SkipDashboard(hparams={"model": "hand_made", "seed": 0})
    trainer = make_trainer(folder, callbacks=[dashboard], loggers=[logger], max_epochs=epochs)
    task = Replay(trace, {0: 0.25, 1: 0.75} if not trace.open_rate.isnan().all() else None, skips)
    trainer.fit(task, datamodule=FourClips())
    trainer.test(task, datamodule=FourClips(), verbose=False)
    return read(folder)


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(
        str(folder), size_guidance=dict.fromkeys(("images", "histograms", "scalars", "tensors", "audio"), 0)
    )
    events.Reload()
    return events


def last(events: EventAccumulator, tag: str) -> float:
    return events.Scalars(tag)[-1].value


def test_stride_model_has_the_stride_tags_with_the_values_of_its_trace(tmp_path: Path) -> None:
    events = fit(tmp_path, stride_trace())
    assert [last(events, f"skip/stride/layer_0{layer}") for layer in range(3)] == [1.25, 1.75, 3.5]
    assert last(events, "policy/routes") == 4
    assert last(events, "policy/entropy") == 0.5
    assert "epoch" not in events.Tags()["scalars"]
    assert "skip/pattern" in events.Tags()["images"]
    assert "skip/pattern/text_summary" in events.Tags()["tensors"]
    histogram = events.Histograms("skip/stride/layer_02/histogram")[-1].histogram_value
    assert dict(zip(histogram.bucket_limit, histogram.bucket, strict=True)) == {0.5: 0, 1.5: 0, 2.5: 1, 3.5: 0, 4.5: 3}


def test_jump_model_has_the_jump_and_gate_tags_with_the_values_of_its_trace(tmp_path: Path) -> None:
    events = fit(tmp_path, jump_trace())
    assert last(events, "jump/rate") == pytest.approx(2 / 10)
    assert last(events, "jump/skipped") == pytest.approx(2 / 12)
    assert [last(events, f"jump/visited/layer_0{layer}") for layer in range(3)] == [1.0, 0.5, 1.0]
    assert [last(events, f"gate/open_rate/layer_0{layer}") for layer in range(2)] == [0.75, 0.75]
    assert [last(events, f"gate/threshold/layer_0{layer}") for layer in range(2)] == [0.25, 0.75]
    assert "gate/open_rate/layer_02" not in events.Tags()["scalars"]
    assert last(read(tmp_path / "train"), "jump_rate") == pytest.approx(2 / 10)
    assert {"jump/history", "gate/tokens_0", "gate/tokens_1"} <= set(events.Tags()["images"])
    histogram = events.Histograms("jump/history/histogram")[-1].histogram_value
    assert dict(zip(histogram.bucket_limit, histogram.bucket, strict=True)) == {0.5: 8, 1.5: 1, 2.5: 1}
    text = events.Tensors("jump/history/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| yes/1.wav | yes | no | 0.731 | 0.600 | 0.10 | 0 ⤳ 2 |" in text


def test_model_with_both_has_both_kinds_of_tags(tmp_path: Path) -> None:
    events = fit(tmp_path, both_trace())
    assert {"skip/stride/layer_01", "jump/rate", "jump/visited/layer_01"} <= set(events.Tags()["scalars"])
    assert {"skip/pattern", "jump/history"} <= set(events.Tags()["images"])
    assert last(events, "skip/stride/layer_01") == 2.0  # of the two clips that ran it


def test_dense_model_has_no_tags_about_decisions(tmp_path: Path) -> None:
    events = fit(tmp_path, dense_trace())
    assert [tag for tag in events.Tags()["scalars"] if tag.startswith(("skip", "jump", "gate", "policy"))] == []
    assert not {"jump/history", "skip/pattern"} & set(events.Tags()["images"])


def test_an_early_exit_has_its_layers_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    visited = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    events = fit(tmp_path, make_trace(visited=visited), skips=frozenset({"exits"}))
    assert [last(events, f"jump/visited/layer_0{layer}") for layer in range(3)] == [1.0, 0.75, 0.25]
    assert last(events, "jump/skipped") == pytest.approx(4 / 12)
    assert "jump/history" in events.Tags()["images"]


@pytest.mark.parametrize("trace", [stride_trace(), jump_trace(), both_trace()], ids=["stride", "jump", "both"])
def test_no_tag_holds_two_kinds_of_data(tmp_path: Path, trace: SkipTrace) -> None:
    """TensorBoard keeps the first kind it meets and draws nothing of the second."""
    kinds = fit(tmp_path, trace).Tags()
    tags = [tag for kind in ("images", "audio", "histograms", "scalars", "tensors") for tag in kinds[kind]]
    assert len(tags) == len(set(tags))


def test_pattern_picture_grows_by_a_column_an_epoch(tmp_path: Path) -> None:
    dashboard = SkipDashboard()
    events = fit(tmp_path, stride_trace(), epochs=3, dashboard=dashboard)
    assert [picture.step for picture in events.Images("skip/pattern")] == [0, 1, 2]
    assert list(dashboard.patterns) == [0, 1, 2]


def test_clips_most_often_wrong_can_be_seen_and_heard_by_name(tmp_path: Path) -> None:
    events = fit(tmp_path, stride_trace(), epochs=3)
    tags = events.Tags()
    assert "val/confusion" in tags["images"]
    drawn = {tag for tag in tags["images"] if tag.startswith("wrong")}
    assert drawn == {"wrong/yes/1.wav is yes: mel", "wrong/yes/3.wav is yes: mel"}
    sounds = events.Audio("wrong/yes/3.wav is yes: sound")
    assert [(sound.step, sound.sample_rate) for sound in sounds] == [(1, 800)]  # wrong twice by then, and written once
    text = events.Tensors("wrong/clips/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| yes/3.wav | 3 of 3 | yes | no | 3.05 |" in text


def test_a_clip_that_was_wrong_once_is_named_but_not_drawn(tmp_path: Path) -> None:
    tags = fit(tmp_path, stride_trace()).Tags()
    assert not [tag for tag in [*tags["images"], *tags["audio"]] if tag.startswith("wrong")]
    assert "wrong/clips/text_summary" in tags["tensors"]


def test_hyper_parameters_are_written_once_with_the_final_metrics(tmp_path: Path) -> None:
    events = fit(tmp_path, stride_trace())
    assert "_hparams_/experiment" in events.summary_metadata
    assert "_hparams_/session_start_info" in events.summary_metadata
    test = read(tmp_path / "test")
    assert [scalar.value for scalar in test.Scalars("acc")] == [0.5]  # no invented value at the start
    content = HParamsPluginData.FromString(events.summary_metadata["_hparams_/experiment"].plugin_data.content)
    named = [(info.name.group, info.name.tag) for info in content.experiment.metric_infos]
    assert named == [("test", "acc"), ("test", "compute/fraction"), ("test", "seconds")]
    assert {"acc", "seconds"} <= set(test.Tags()["scalars"])


def test_a_tag_has_its_split_as_a_run() -> None:
    assert place_of("val/acc") == ("val", "acc")
    assert place_of("train/compute_fraction") == ("train", "compute/fraction")
    assert place_of("skip/stride/layer_00") == ("", "skip/stride/layer_00")


def test_resumed_run_keeps_its_curves_and_pictures(tmp_path: Path) -> None:
    first = SkipDashboard(hparams={"seed": 0})
    fit(tmp_path / "whole", stride_trace(), epochs=3, dashboard=first)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = SkipDashboard(hparams={"seed": 0})
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(second.patterns) == [0, 1, 2]
    np.testing.assert_array_equal(second.patterns[2], first.patterns[2])
    assert second.hardest.times_wrong == {1: 3, 3: 3}
    resumed = fit(tmp_path / "resumed", stride_trace(), dashboard=second)  # a folder of its own, with all of it
    assert {"_hparams_/session_start_info", "custom_scalars__config__"} <= set(resumed.summary_metadata)


def test_a_resumed_run_that_validates_on_fewer_clips_ranks_those(tmp_path: Path) -> None:
    dashboard = SkipDashboard()
    dashboard.hardest.load_state_dict({"times_wrong": {99: 7, 3: 2}, "num_evaluations": 7})
    text = fit(tmp_path, stride_trace(), dashboard=dashboard).Tensors("wrong/clips/text_summary")[-1]
    assert "| yes/3.wav | 3 of 8 |" in text.tensor_proto.string_val[0].decode()


def test_without_pictures_the_numbers_remain(tmp_path: Path) -> None:
    events = fit(tmp_path, both_trace(), dashboard=SkipDashboard(pictures=False))
    assert events.Tags()["images"] == []
    assert last(events, "jump/rate") == pytest.approx(2 / 10)


def test_pictures_without_tensorboard_warn_and_name_themselves(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[SkipDashboard()])
    with pytest.warns(UserWarning, match=r"callbacks\.dashboard\.pictures=true has no effect"):
        trainer.fit(Replay(stride_trace()), datamodule=FourClips())


def test_a_count_below_one_is_refused_with_its_key() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.dashboard\.num_fixed_clips must be at least 1, got 0"):
        SkipDashboard(num_fixed_clips=0)
