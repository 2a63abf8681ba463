"""A cascade asks trained models in turn, is a run like any other, and reads stages as it reads what strangers send."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hopscotch.cascade import join
from hopscotch.evaluate import evaluate
from hopscotch.models.cascade import Cascade
from hopscotch.plain import read_config, read_json
from hopscotch.predict import load
from hopscotch.restore import restore
from hopscotch.shared import export, read_shared
from tests.counting import counted_macs
from tests.small_models import halving, make_clips, make_model
from tests.trained import write_run


def make(*names: str, **changes: Any) -> Cascade:
    models = [make_model(name, seed=seed, **changes) for seed, name in enumerate(names)]
    return Cascade(name="cascade", stages=models).eval()


@pytest.fixture(scope="module")
def runs(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("dense", "skip_attention", "learned_skip")}
    return {name: write_run(folder, tones, name) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def joined(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return join([runs["dense"], runs["skip_attention"]], tmp_path_factory.mktemp("joined") / "run")


def test_a_clip_costs_the_models_that_it_was_put_to_and_the_last_of_them_answers() -> None:
    model, clips = make("skip_attention", "dense"), make_clips([3000, 4000, 2500, 3500])
    with torch.no_grad():
        at = model.at_exits(*clips)
        model.exits.thresholds.copy_(halving(model.exits.scores(at)))
        output, alone = model(*clips), [stage(*clips) for stage in model.models]
    went_on = output.trace.visited[:, 1]
    assert 0 < int(went_on.sum()) < 4
    first, both = alone[0].trace.macs, alone[0].trace.macs + alone[1].trace.macs
    assert torch.equal(output.trace.macs, torch.where(went_on, both, first))
    assert torch.equal(output.trace.dense_macs, alone[0].trace.dense_macs + alone[1].trace.dense_macs)
    said = [one.logits.log_softmax(dim=-1) for one in alone]
    expected = torch.where(went_on[:, None], said[1], said[0])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)


def test_models_that_hear_alike_share_what_they_hear() -> None:
    waveform, lengths = make_clips([3000] * 4)
    for offset, shared in ((0.0, 1), (0.5, 2)):
        model = make("skip_attention", "dense")
        model.models[1].frontend.offset.add_(offset)
        model.decision_bias.fill_(100.0)
        heard = list[int]()
        for one in model.models:
            one.frontend.register_forward_hook(lambda *_, heard=heard: heard.append(1))
        with torch.no_grad():
            output = model(waveform, lengths)
        assert len(heard) == shared
        assert output.frontend_macs.tolist() == (shared * model.models[0].frontend.macs(lengths)).tolist()


def test_macs_are_those_of_the_code_that_ran() -> None:
    waveform, lengths = make_clips([3000] * 4)
    model = make("skip_attention", "dense")
    model.decision_bias.fill_(-100.0)
    frames = model.models[0].frontend.frames(lengths).sum()
    bands = int(frames) * model.models[0].frontend.mel.mel_scale.get_buffer("fb").numel()
    with torch.no_grad():
        assert int(model(waveform, lengths).trace.macs.sum()) == counted_macs(model, waveform, lengths) - bands


def test_the_cheapest_comes_first_and_the_run_is_one_like_any_other(joined: Path, tones: Path) -> None:
    restored = restore(joined)
    assert isinstance(restored.model, Cascade)
    assert [stage["model"]["name"] for stage in read_config(joined / "config.yaml")["model"]["stages"]] == [
        "skip_attention",
        "dense",
    ]
    assert restored.budgets, "any budget can be set without data"
    summary = read_json(joined / "summary.json")
    assert (summary["status"], summary["skips"], summary["model"]) == ("finished", ["exits"], "cascade")
    assert (joined / "report" / "index.html").is_file()
    model, macs = load(joined, budget=0.7), []
    for bias in (-100.0, 100.0):
        model.model.decision_bias.fill_(bias)
        macs.append(model(sorted((tones / "high").iterdir())[0]).macs)
    assert macs[0] < macs[1]


def test_a_cascade_is_evaluated_and_exported(joined: Path, tmp_path: Path) -> None:
    folder = evaluate(joined, ["compute.budget=[0.5,0.96]"], out=tmp_path / "evaluated")
    rows = read_json(folder / "metrics.json")["conditions"]
    assert 0.4 < rows[0]["fraction"] < rows[1]["fraction"] < 1, "the strides of one of them are fixed"
    read = read_shared(export(joined, tmp_path / "shared"))
    clip = make_clips([1200])
    with torch.no_grad():
        assert torch.equal(read.model(*clip).logits, restore(joined).model(*clip).logits)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, "model", "encoder"), {"_target_": "os.system", "command": "true"}, r"names os\.system at model\.encoder"),
        ((1, "frontend"), {"_target_": "builtins.eval"}, r"names builtins\.eval at frontend"),
        ((1, "frontend", "num_mels"), 10**6, r"frontend\.num_mels .* must be at most 1024"),
        ((0, "model", "stages"), [], r"must have no cascade within model\.stages"),
        ((0, "data"), {}, r"must have maps of frontend, gate, model as model\.stages"),
        ((0, "model", "ffn_ratio"), -1.0, r"model\.ffn_ratio must be .*above 0"),
    ],
)
def test_stages_are_read_as_what_strangers_send(
    place: tuple[Any, ...], value: Any, message: str, joined: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(joined, run)
    config = read_config(run / "config.yaml")
    *parents, last = place
    below = config["model"]["stages"]
    for parent in parents:
        below = below[parent]
    below[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        restore(run)


def test_runs_that_cannot_be_joined_are_refused(runs: dict[str, Path], joined: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cascade needs two different runs, or more, got .* alone\.$"):
        join([runs["dense"], runs["dense"]], tmp_path / "run")
    with pytest.raises(ValueError, match=r"stages must be models that decide nothing .* got learned_skip\.$"):
        join([runs["dense"], runs["learned_skip"]], tmp_path / "run")
    with pytest.raises(ValueError, match=r"^hydra\.run\.dir must be a folder without a run in it"):
        join([runs["dense"], runs["skip_attention"]], joined)
    assert not (tmp_path / "run").exists()


def test_the_static_models_of_a_cascade_are_its_stages_with_their_prices(joined: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(joined, tmp_path / "run"))
    summary = read_json(run / "summary.json")
    assert (summary["seconds"]["stage_cores"], summary["seconds"]["fit_cores"]) == ([None, None], None)  # no summaries
    summary["seconds"] |= {"stage_cores": [3.0, 5.0], "fit_cores": 8.0}
    (run / "summary.json").write_text(json.dumps(summary))
    found = read_json(evaluate(run, against="baselines") / "against.json")
    assert [(one["name"], one["core_seconds"]) for one in found["statics"]] == [("stage_0", 3.0), ("stage_1", 5.0)]
    assert found["core_seconds"] == 8.0
    first, last = (one["passes"][0]["macs"] for one in found["statics"])
    assert 0 < first < last
    assert not (run / "against").exists()
    shutil.copytree(joined, tmp_path / "other" / "against" / "finished")
    found = read_json(evaluate(run, against=str(tmp_path / "other")) / "against.json")
    assert [one["name"] for one in found["statics"]] == ["finished"]
