"""A run is held against static models that were trained alone, on the same clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hopscotch import cli
from hopscotch.against import Measured, Static, compared
from hopscotch.baselines import baselines_of, drop_of, parts_in, statics_in, typed, unfinished
from hopscotch.build import build_model
from hopscotch.evaluate import parse
from hopscotch.intervals import Units
from hopscotch.latency import Milliseconds
from hopscotch.models.exits import EarlyExit
from hopscotch.models.names import find_parts
from hopscotch.recommend import write_recommended
from tests.tiny import TINY_RUN, Command, composed, prompt, tiny_folder

NUM_CLIPS = 400
DENSE = composed("model=dense", "model.dim=16", "model.heads=2")
UNITS = Units.of([None] * NUM_CLIPS)


def passed(limit: float, macs: float, condition: str = "clean", budget: float | None = None) -> Measured:
    """Clips as hard as `limit` and less are answered right."""
    return Measured(condition, budget, macs, (np.arange(NUM_CLIPS) / NUM_CLIPS < limit).astype(np.float64))


STATICS = [
    Static("depth_6", 40.0, [passed(0.9, 60), passed(0.7, 60, "0 dB")]),
    Static("depth_1", 10.0, [passed(0.6, 10), passed(0.7, 10, "0 dB")]),
    Static("depth_3", 25.0, [passed(0.8, 30), passed(0.7, 30, "0 dB")]),
]


def test_a_pass_is_compared_with_the_cheapest_static_model_that_costs_at_least_as_much() -> None:
    own = [passed(0.85, 30), passed(0.7, 31, "0 dB"), passed(0.9, 70, budget=1.0)]
    found = compared(own, STATICS, UNITS, core_seconds=50.0)
    assert [(row.static, row.costs_as_much) for row in found.rows] == [
        ("depth_3", True),
        ("depth_6", True),
        ("depth_6", False),
    ]
    assert [row.difference.value for row in found.rows] == pytest.approx([0.05, 0.0, 0.0])
    assert found.rows[0].difference.low > 0
    assert found.in_words()["core-seconds"] == "50 of this model's training, 75 of the 3 static models"
    assert [row["own"]["condition"] for row in found.as_json()["rows"]] == ["clean", "0 dB", "clean"]


def test_milliseconds_of_all_models_stand_in_one_table_the_cheapest_first() -> None:
    times = Milliseconds(3.0, 4.0, 5.0, 1.0, 100, 32)
    statics = [one._replace(milliseconds=times) for one in STATICS]
    own = [passed(0.85, 20e6, budget=0.5)._replace(milliseconds=times._replace(p50=2.0))]
    assert compared([passed(0.85, 30)], STATICS, UNITS).time_table().rows == []
    found = compared(own, statics, UNITS, name="early_exit").time_table()
    assert [row[0] for row in found.rows] == ["depth_1", "depth_3", "depth_6", "early_exit at 0.5"]
    assert found.rows[-1] == ["early_exit at 0.5", "clean", "20.00", "2.00", "4.00", "5.00", "1.00"]


def test_of_static_models_of_equal_cost_the_better_one_counts() -> None:
    dropped = Static("depth_6_dropped", 40.0, [passed(0.95, 60)])
    found = compared([passed(0.9, 50)], [*STATICS, dropped], UNITS)
    assert (found.rows[0].static, found.rows[0].difference.value) == ("depth_6_dropped", pytest.approx(-0.05))


def test_headroom_is_the_best_static_model_minus_the_cheapest_and_without_it_that_one_is_recommended() -> None:
    found = compared([passed(0.85, 30), passed(0.7, 31, "0 dB")], STATICS, UNITS)
    clean, noisy = found.headrooms
    assert (clean.best, clean.cheapest, clean.gain.value) == ("depth_6", "depth_1", pytest.approx(0.3))
    assert clean.errors == pytest.approx(0.3 / np.sqrt(0.3 * 0.7 / NUM_CLIPS), rel=0.05)
    assert (clean.warnings, noisy.errors) == ([], 0.0)
    assert noisy.warnings == [
        "no headroom, 0 dB: no static model is better than depth_1, the cheapest. "
        "No adaptive model can win here: take depth_1."
    ]


def test_two_standard_errors_of_headroom_are_needed() -> None:
    statics = [Static("small", None, [passed(0.6, 10)]), Static("large", None, [passed(0.605, 60)])]
    (warning,) = compared([passed(0.6, 20)], statics, UNITS).warnings
    assert warning.startswith("no headroom, clean: large, the best static model, is right in +0.005 of the clips more")
    assert warning.endswith("No adaptive model can win here: take small.")


def test_recommended_is_the_cheapest_of_those_that_no_other_is_right_more_often_than() -> None:
    own = [passed(0.8975, 20, budget=0.5), passed(0.9, 40, budget=0.9), passed(0.5, 5)]
    (choice,) = compared(own, STATICS, UNITS, name="early_exit").recommended
    assert (choice.take, choice.budget, choice.is_static) == ("early_exit at 0.5", 0.5, False)
    assert (choice.other, choice.ratio, choice.gain.value) == ("depth_6", pytest.approx(1 / 3), pytest.approx(-0.0025))
    assert str(choice) == (
        "take early_exit at 0.5: right as often as depth_6, -0.003 (-0.007 to +0.000), for 0.33 of its MACs"
    )


def test_what_another_model_is_right_more_often_than_is_not_recommended_though_the_best_is_level_with_it() -> None:
    others = passed(0.9, 60)._replace(right=(np.arange(NUM_CLIPS)[::-1] / NUM_CLIPS < 0.83).astype(np.float64))
    statics = [STATICS[1], Static("large", None, [others]), Static("middle", None, [passed(0.82, 30)])]
    (choice,) = compared([passed(0.8, 20)], statics, UNITS, name="early_exit").recommended
    assert (choice.take, choice.other) == ("middle", "early_exit as trained")
    (choice,) = compared([passed(0.8, 20)], statics[:2], UNITS, name="early_exit").recommended
    assert (choice.take, choice.other) == ("early_exit as trained", "large"), "whom the clips cannot tell apart from it"


def test_a_static_model_of_equal_compute_that_does_as_well_is_recommended() -> None:
    equal = Static("depth_2", None, [passed(0.8975, 20)])
    (choice,) = compared([passed(0.9, 20)], [*STATICS, equal], UNITS, name="early_exit").recommended
    assert (choice.take, choice.other, choice.ratio) == ("depth_2", "early_exit as trained", 1.0)
    (choice,) = compared([passed(0.7, 20)], STATICS, UNITS, name="early_exit").recommended
    assert (choice.take, choice.other) == ("depth_6", "early_exit as trained")
    assert str(choice).startswith("take depth_6: right more often than early_exit as trained, +0.200 (")
    assert str(choice).endswith(", for 3.00 of its MACs")


def test_a_model_that_is_better_than_all_static_ones_is_recommended_and_compared_with_the_best() -> None:
    (choice,) = compared([passed(0.95, 70)], STATICS, UNITS, name="early_exit").recommended
    assert str(choice).startswith("take early_exit as trained: right more often than depth_6, +0.050 (")


def test_without_headroom_the_cheapest_static_model_is_recommended_by_condition() -> None:
    own = [passed(0.9, 30), passed(0.7, 31, "0 dB")]
    clean, noisy = compared(own, STATICS, UNITS).recommended
    assert (clean.condition, clean.take, noisy.condition, noisy.take) == (
        "clean",
        "this model as trained",
        "0 dB",
        "depth_1",
    )
    assert str(noisy) == (
        "take depth_1: right as often as this model as trained, +0.000 (+0.000 to +0.000), for 0.32 of its MACs; "
        "without headroom no adaptive model can win"
    )


def test_a_model_that_is_above_the_cheapest_static_one_is_headroom_by_itself() -> None:
    statics = [Static("small", None, [passed(0.6, 10)]), Static("large", None, [passed(0.605, 60)])]
    found = compared([passed(0.7, 20, budget=0.2), passed(0.705, 40, budget=0.4)], statics, UNITS, name="early_exit")
    assert found.headrooms[0].warnings
    assert found.warnings == []
    assert str(found.recommended[0]).startswith("take early_exit at 0.2: right more often than large, +0.095 (")


def test_what_is_recommended_stands_in_the_summary_whose_rest_stays(tmp_path: Path) -> None:
    found = compared([passed(0.95, 70)], STATICS, UNITS)
    write_recommended(tmp_path, found.recommended)
    assert not any(tmp_path.iterdir())  # a run without a summary gets none
    was = {"status": "finished", "model": "m", "seed": 0, "versions": {"torch": "1"}, "commit": "abc", "own": [1]}
    (tmp_path / "summary.json").write_text(json.dumps({**was, "recommended": None, "compare": "by a command"}))
    write_recommended(tmp_path, found.recommended)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (one,) = summary.pop("recommended")
    assert (one["take"], one["words"]) == ("this model as trained", str(found.recommended[0]))
    assert summary == was | dict.fromkeys(("test", "compute", "parameters", "seconds")) | {"warnings": []}


def test_thresholds_of_clean_clips_that_lose_a_point_in_noise_are_warned_of() -> None:
    own = [passed(0.85, 30), passed(0.70, 31, "0 dB", 0.5), passed(0.80, 31, "0 dB", 0.9)]
    found = compared(own, STATICS, UNITS, refitted=[passed(0.75, 30, "0 dB")])
    (one,) = found.refitted
    assert (one.condition, one.gain.value) == ("0 dB", pytest.approx(-0.05))
    assert found.warnings[0].startswith("thresholds of clean clips lose 0.050 of the clips, 0 dB, against those")
    assert "for 0.00 million MACs" in found.in_words()["thresholds of clean clips, 0 dB"]
    (close,) = compared(own, STATICS, UNITS, refitted=[passed(0.7075, 30, "0 dB")]).refitted
    assert close.gain.value == pytest.approx(-0.0075)
    assert not any("thresholds" in one for one in found._replace(refitted=[close]).warnings)


def test_a_gain_of_every_clip_is_headroom() -> None:
    statics = [Static("none", None, [passed(0.0, 10)]), Static("all", None, [passed(1.1, 60)])]
    assert compared([passed(0.6, 20)], statics, UNITS).warnings == []


def test_static_models_are_the_stack_cut_where_it_has_exits() -> None:
    cfg = composed("model=early_exit", "model.encoder.first=3", "model.dim=16", "model.heads=2")
    model = build_model(cfg, 3)
    found = baselines_of(model, cfg, drop_of(model, 0.5))
    assert {name: keys["model.depth"] for name, keys in found.items()} == {
        "depth_0": 0,  # the exit behind the stem
        "depth_1": 1,
        "depth_2": 2,
        "depth_4": 4,
        "depth_6": 6,
        "depth_6_dropped": 6,
    }
    assert found["depth_4"]["model.encoder.strides"] == [3, 2, 1, 1]
    assert found["depth_0"]["model.encoder.strides"] == []
    assert (found["depth_6"].get("model.encoder.drop"), found["depth_6_dropped"]["model.encoder.drop"]) == (
        None,
        model.drop,
    )
    assert (found["depth_2"]["model.exits"], found["depth_2"]["model.stem_channels"]) == (None, [16, 32, 64])


def test_a_stem_alone_stands_beside_the_exit_behind_it() -> None:
    words = ("model.dim=16", "model.heads=2", "model.depth=2")
    exits = build_model(composed("model=early_exit", *words), 3)
    keys = baselines_of(exits, composed("model=early_exit", *words))["depth_0"]
    alone = build_model(composed(*typed("depth_0", keys), "model.dim=16", "model.heads=2"), 3).eval()
    assert isinstance(exits, EarlyExit)
    inside, behind, *_ = exits.costs(torch.tensor([16_000]))[0][0].tolist()
    heads = behind - alone.cost(16_000).dense  # that of the exit inside the stem, and what exits say of themselves
    assert 0 < heads < alone.cost(16_000).dense / 100
    assert inside < alone.cost(16_000).dense
    waveform, lengths = torch.randn(2, 8000), torch.tensor([8000, 4000])
    waveform[1, 4000:] = 0.0
    output = alone(waveform, lengths)
    assert output.trace.expected_compute.tolist() == output.trace.fraction.tolist() == [1.0, 1.0]
    assert output.trace.visited.shape == (2, 0)
    torch.testing.assert_close(alone(waveform[1:, :4000], lengths[1:]).logits, output.logits[1:])


def test_other_models_than_dense_need_a_layer() -> None:
    for model in ("learned_skip", "early_exit", "slimmable"):
        with pytest.raises(ValueError, match=f"model.depth must be at least 1 for model={model}, got 0"):
            build_model(composed(f"model={model}", "model.dim=16", "model.heads=2", "model.depth=0"), 3)


def test_layers_of_the_stem_are_layers_of_the_static_models() -> None:
    cfg = composed("model=early_exit", "model.encoder.first=3", "model.dim=16", "model.heads=2", "model.stem_layers=2")
    found = baselines_of(build_model(cfg, 3), cfg)
    strides = {name: keys["model.encoder.strides"] for name, keys in found.items()}
    assert strides == {"depth_1": [1], "depth_2": [1, 1], "depth_4": [1, 1, 3, 2], "depth_6": [1, 1, 3, 2, 1, 1]}


def test_static_models_freeze_what_they_have_of_what_the_run_froze() -> None:
    words = ("model.dim=16", "model.heads=2", "model.depth=4", "model.exits.every=2")
    frozen = "trainer.freeze=[stem,encoder.blocks.1,encoder,early.0]"
    cfg = composed("model=early_exit", *words, frozen)
    found = baselines_of(build_model(cfg, 3), cfg)
    assert {name: keys["trainer.freeze"] for name, keys in found.items()} == {
        "depth_0": ["stem"],
        "depth_1": ["stem", "encoder"],
        "depth_2": ["stem", "encoder.blocks.1", "encoder"],
        "depth_4": ["stem", "encoder.blocks.1", "encoder"],
    }
    for name, keys in found.items():
        alone = composed(frozen, *typed(name, keys), *words[:2])
        find_parts(build_model(alone, 3), alone.trainer.freeze, "trainer.freeze")  # refuses a part that is not there
    assert list(parts_in(["stem_layers", "encoder.block.layers.1"], 2, 1)) == ["encoder.blocks.0"]
    assert list(parts_in(["encoder.encoder.blocks.0"], 2, 1)) == ["encoder.blocks.1"]


def test_static_models_of_routes_drop_as_many_layers_in_training() -> None:
    cfg = composed("model=skip_transformer", "model.dim=16", "model.heads=2")
    assert drop_of(build_model(cfg, 3), 0.8) == 0.4
    assert list(baselines_of(build_model(cfg, 3), cfg)) == [f"depth_{depth}" for depth in range(1, 7)]


def test_static_models_of_widths_are_as_wide_as_the_narrow_ones() -> None:
    cfg = composed("model=slimmable", "model.dim=32", "model.heads=4", "model.depth=2")
    model = build_model(cfg, 3)
    found = baselines_of(model, cfg, drop_of(model, 0.5))
    assert {name: (keys["model.dim"], keys["model.heads"], keys["model.depth"]) for name, keys in found.items()} == {
        "width_0.25": (8, 1, 2),
        "width_0.5": (16, 2, 2),
        "width_1": (32, 4, 2),
    }
    assert all(keys["init_from"] is None for keys in found.values())  # no weights of another width fit
    assert "init_from" not in baselines_of(build_model(DENSE, 3), DENSE)["depth_1"]


@pytest.mark.parametrize("words", [["against=baselines"], []])
def test_the_option_is_a_word(words: list[str]) -> None:
    assert parse(["run=outputs/a", *words])["against"] == ("baselines" if words else None)
    assert cli.with_against(["RUN", "--against", "baselines", "snr=0"]) == ["RUN", "against=baselines", "snr=0"]
    assert cli.with_against(["RUN", "--against=baselines"]) == ["RUN", "against=baselines"]
    with pytest.raises(ValueError, match=r"against must be baselines or a run with static models .*, got others"):
        parse(["run=outputs/a", "against=others"])


def test_what_was_cut_short_goes_on_from_its_checkpoint_and_else_begins_again(tmp_path: Path) -> None:
    for name, status, kept in (("done", "finished", []), ("cut", "stopped", ["last.ckpt"]), ("begun", "failed", [])):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("{}")
        (tmp_path / name / "summary.json").write_text(json.dumps({"status": status}))
        for file in kept:
            (tmp_path / name / "checkpoints" / file).touch()
    names = ("done", "cut", "begun", "new")
    jobs = list(unfinished({tmp_path / name: [f"model.name={name}"] for name in names}))
    assert [job.folder.name for job in jobs] == ["cut", "begun", "new"]
    assert [job.words[0] for job in jobs] == [f"resume={tmp_path / 'cut'}", "model.name=begun", "model.name=new"]
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert not (tmp_path / "begun").exists()
    assert statics_in(tmp_path) == []
    (tmp_path / "against").mkdir()
    (tmp_path / "done").rename(tmp_path / "against" / "mine")
    assert [place.name for place in statics_in(tmp_path)] == ["mine"]


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return prompt(monkeypatch, capsys)


def test_baselines_are_trained_once_and_what_was_cut_short_goes_on(
    type_in: Command, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    size = ["model.dim=8", "model.heads=1", "model.depth=1", "model.stem_channels=[4,8]", "model.exits.drop=0"]
    ended = type_in("model=early_exit", *tiny_folder(tones), *size, *TINY_RUN, f"hydra.run.dir={run}")
    assert ended.code == 0, ended.err
    before = json.loads((run / "summary.json").read_text())
    (run / "against" / "depth_1").mkdir(parents=True)
    (run / "against" / "depth_1" / "config.yaml").write_text("{}")  # cut short before its first checkpoint
    cli.main(["evaluate", str(run), "compute.budget=[0.5,1.0]", "snr=[0]", "--against", "baselines"])
    out = capsys.readouterr().out
    assert "training depth_0 (1 of 2)" in out
    assert "training depth_1 (2 of 2)" in out
    assert "Static models, each trained alone" in out
    own = json.loads((run / "summary.json").read_text())
    (first, second), compare = own["recommended"], before["compare"]
    assert (before["recommended"], own.keys() | {"compare"}) == (None, before.keys())
    assert compare == f"hopscotch evaluate {run} --against baselines  (a static model of equal compute may do as well)"
    assert f"compare:     {compare}" in ended.out
    assert (first["condition"], second["condition"]) == ("clean", "0 dB")
    assert f"clean {first['words']}" in " ".join(out.split())
    found = json.loads((run / "report" / "evaluation" / "against.json").read_text())
    stem, static = found["statics"]
    assert (stem["name"], static["name"]) == ("depth_0", "depth_1")
    assert 0 < stem["passes"][0]["macs"] < static["passes"][0]["macs"]
    summary = json.loads((run / "against" / "depth_1" / "summary.json").read_text())
    assert static["passes"][0]["accuracy"] == pytest.approx(summary["test"]["acc"])
    assert static["passes"][0]["macs"] == pytest.approx(summary["compute"]["macs"])
    assert (summary["model"], summary["seed"], static["core_seconds"]) == (
        "depth_1",
        0,
        summary["seconds"]["fit_cores"],
    )
    assert found["recommended"] == own["recommended"]
    assert [(row["own"]["condition"], row["own"]["budget"]) for row in found["rows"]] == [
        (condition, budget) for budget in (0.5, 1.0, None) for condition in ("clean", "0 dB")
    ]
    times = [stem["milliseconds"], static["milliseconds"], *(row["own"]["milliseconds"] for row in found["rows"])]
    assert all(0 < one["p50"] <= one["p95"] <= one["p99"] and one["batch"] > 0 for one in times)
    assert {(one["clips"], one["batch_size"]) for one in times} == {(3, 3)}  # all of the test clips
    assert out.count("ms, p50") == out.count("batch of 3") == 1
    (fitted,) = found["refitted"]
    assert fitted["condition"] == "0 dB"
    assert fitted["gain"]["value"] == found["rows"][1]["own"]["accuracy"] - fitted["there"]["accuracy"]
    cli.main(["evaluate", str(run), "against=baselines"])
    assert "depth_1 (2 of 2) has finished before" in capsys.readouterr().out
    cli.main(["evaluate", str(run / "against" / "depth_1"), "--against", str(run)])
    other = json.loads((run / "against" / "depth_1" / "report" / "evaluation" / "against.json").read_text())
    assert [one["name"] for one in other["statics"]] == ["depth_0", "depth_1"]
    assert [(row["static"], row["difference"]["value"]) for row in other["rows"]] == [("depth_1", 0.0)]
