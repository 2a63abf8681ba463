"""The page on a clip shows what the model did: which tokens were read at which layer, where it jumped, what it cost."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch.explain import Explanation, draw, explained, layer_in_words, save_page, tokens_read
from hopscotch.models.audio_model import Said
from hopscotch.predict import load
from tests.hand_made import LANDINGS, OPEN_RATE, VISITED, make_trace
from tests.small_models import SAMPLE_RATE, decide_at_random, make_clips, make_model
from tests.tiny import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_tokens_read_are_those_that_were_paid_for(name: str) -> None:
    model = make_model(name)
    waveform, lengths = make_clips([3000, 4000, 2500, 3500])
    decide_at_random(model, waveform, lengths)
    waveform, lengths = make_clips([3000, 4000, 2500, 3500], seed=1)  # the gates' bias is a score of the others
    with torch.no_grad():
        trace = model(waveform, lengths).trace
    for clip, length in enumerate(lengths.tolist()):
        page = explained(model, waveform[clip, :length], SAMPLE_RATE, ["a", "b", "c"])
        one = page.trace
        assert torch.equal(one.macs, trace.macs[clip : clip + 1])
        assert sum(page.said.probabilities.values()) == pytest.approx(1.0)
        positions = page.read.shape[1]
        for layer, read in enumerate(page.read):
            stride, rate = int(one.strides[0, layer]), float(one.open_rate[0, layer])
            if not one.visited[0, layer]:
                assert not read.any()
            elif page.is_gated[layer]:
                assert read.mean() == pytest.approx(rate)
            else:
                assert np.flatnonzero(read).tolist() == list(range(0, positions, max(stride, 1)))
        assert page.mel.shape[0] * page.hop_seconds == pytest.approx(positions * page.token_seconds, rel=0.1)


def test_no_hook_is_left_behind() -> None:
    model = make_model("skip_layer").eval()
    waveform, _ = make_clips([3000])
    explained(model, waveform[0], SAMPLE_RATE, ["a", "b", "c"])
    assert all(not module._forward_hooks for module in model.modules())


def hand_made() -> Explanation:
    """Clip 1 of tests/hand_made.py: layer 0 with half of its tokens open, over 1 to 2, where it attends."""
    strides = torch.tensor([[0, 0, 2]] * 4)
    trace = make_trace(
        strides=strides, visited=VISITED, landings=LANDINGS, open_rate=OPEN_RATE, macs=torch.tensor([60] * 4)
    )
    one = trace[torch.tensor([1])]
    read = tokens_read(one, {}, 4)
    return Explanation(
        waveform=np.sin(np.arange(800) / 10).astype(np.float32),
        sample_rate=8000,
        mel=np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32),
        hertz=np.array([100.0, 200.0, 300.0, 400.0]),
        hop_seconds=0.01,
        token_seconds=0.025,
        read=read,
        is_gated=[True, True, False],
        trace=one,
        said=Said("yes", 0.75, {"yes": 0.75, "no$x$": 0.25}),
    )


def test_layers_are_put_in_words() -> None:
    page = hand_made()
    assert [layer_in_words(page, layer) for layer in range(3)] == ["50% open", "jumped over", "landed on, stride 2"]
    dense = page._replace(trace=make_trace(strides=torch.zeros(1, 3, dtype=torch.long)), is_gated=[False] * 3)
    assert layer_in_words(dense, 0) == "ran"
    assert page.read.tolist() == [[True] * 4, [False] * 4, [True, False, True, False]]


def test_the_title_says_label_confidence_and_cost_whatever_the_file_is_called(tmp_path: Path) -> None:
    figure = draw(hand_made(), "a$b$.wav")
    (title,) = [text.get_text() for text in figure.texts]
    assert title == "a$b$.wav: yes (75%), for 60% of a dense model"
    save_page(hand_made(), "a$b$.wav", tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_run_is_explained_as_it_is_predicted(trained: Path, tones: Path) -> None:
    model = load(trained)
    clip = min((tones / "low").iterdir())
    prediction = model(clip)
    from hopscotch.data.audio import read_clip

    page = explained(model.model, read_clip(clip, model.sample_rate), model.sample_rate, model.classes)
    assert page.said.probabilities == pytest.approx(prediction.probabilities, abs=2e-5)
    assert page.trace.histories == [prediction.history]


def test_a_number_is_its_title_and_has_no_bars() -> None:
    page = hand_made()._replace(said=Said("23.4", None, {}))
    figure = draw(page, "a.wav")
    assert figure.get_suptitle().startswith("a.wav: 23.4, for ")
    (bars,) = [axes for axes in figure.axes if axes.get_title() == "What it says"]
    assert len(bars.patches) == 0
