"""A sweep says what its static models are worth before it shows what adaptive ones gain."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from hopscotch.report.clips import ClipRow, write_clips
from hopscotch.report.records import group_records, points_of, read_records
from hopscotch.report.summary import write_summary
from hopscotch.standing import Standing, standing_of
from hopscotch.sweep import report_folder

NUM_CLIPS = 400


def write_run(
    sweep: Path,
    model: str,
    limit: float,
    macs: float,
    *,
    decides: bool = False,
    seed: int = 0,
    clips: bool = True,
    words: Sequence[str] = (),
    data: str = "0123",
) -> None:
    """Leave a run whose clips, as hard as `limit` and less, are right."""
    folder, right = sweep / f"{model}_seed-{seed}", [place / NUM_CLIPS < limit for place in range(NUM_CLIPS)]
    value, error = sum(right) / NUM_CLIPS, 0.01
    write_summary(
        folder,
        status="finished",
        model=model,
        seed=seed,
        test={"acc": value},
        primary={
            "name": "acc",
            "larger_is_better": True,
            "test": value,
            "interval": {"value": value, "low": value - 1.96 * error, "high": value + 1.96 * error, "over": "clips"},
        },
        compute={"fraction": 0.5, "macs": macs, "dense_macs": 4 * macs, "floor": 0.4},
        seconds={"total": 10.0, "fit": 8.0, "test_clip": 0.002},
        decides=decides,
        data={"fingerprint": data},
    )
    (folder / "overrides.yaml").write_text(
        "".join(f"- {word}\n" for word in (f"model={model}", *words, f"seed={seed}"))
    )
    rows = [
        ClipRow(f"{place}.wav", {"label": "a", "prediction": "a" if one else "b"}, 1, [], [], "", [], 0, 1, 1, 1, 0)
        for place, one in enumerate(right)
    ]
    if clips:
        write_clips(rows, folder / "report" / "clips.csv")


def standing(sweep: Path) -> Standing:
    return standing_of(group_records(points_of(read_records(sweep))))


def test_headroom_is_paired_over_clips_and_models_stand_beside_the_cheapest_static_one_that_costs_as_much(
    tmp_path: Path,
) -> None:
    for model, limit, macs in (("small", 0.6, 1e6), ("middle", 0.8, 3e6), ("large", 0.9, 6e6)):
        write_run(tmp_path, model, limit, macs)
    write_run(tmp_path, "exits", 0.85, 2e6, decides=True)
    write_run(tmp_path, "routes", 0.9, 7e6, decides=True)
    found = standing(tmp_path)
    (room,) = found.headrooms
    assert (room.best, room.cheapest) == ("4 (large)", "1 (small)")
    assert (room.gain.value, room.errors) == (pytest.approx(0.3), pytest.approx(0.3 / (0.21 / 400) ** 0.5, rel=0.05))
    assert found.warnings == []
    assert [(row.own.name, row.static.name, row.costs_as_much) for row in found.rows] == [
        ("2 (exits)", "3 (middle)", True),
        ("5 (routes)", "4 (large)", False),
    ]
    first, last = (row.difference for row in found.rows)
    assert first is not None
    assert last is not None
    assert (first.value, last.value, last.high) == (pytest.approx(0.05), 0.0, 0.0)
    assert 0.02 < first.low < 0.05 < first.high < 0.08


def test_each_clip_counts_with_the_mean_of_its_seeds(tmp_path: Path) -> None:
    for seed, limit in enumerate((0.5, 0.7)):
        write_run(tmp_path, "small", limit, 1e6, seed=seed)
    write_run(tmp_path, "large", 0.7, 2e6, seed=5)
    (room,) = standing(tmp_path).headrooms
    assert room.gain.value == pytest.approx(0.1)
    assert room.gain.errors == pytest.approx(0.1 / (0.25 * 0.2 * 0.8 / NUM_CLIPS) ** 0.5, rel=0.05)


def test_without_clips_the_intervals_of_both_accuracies_tell(tmp_path: Path) -> None:
    write_run(tmp_path, "small", 0.6, 1e6, clips=False)
    write_run(tmp_path, "large", 0.65, 2e6)
    (room,) = standing(tmp_path).headrooms
    assert room.errors == pytest.approx(0.05 / (2**0.5 * 0.01), rel=1e-3)
    assert room.gain.over == "clips, not paired"


def test_static_models_of_equal_cost_or_of_other_clips_have_no_headroom(tmp_path: Path) -> None:
    write_run(tmp_path, "slow", 0.6, 1e6)
    write_run(tmp_path, "fast", 0.9, 1e6)
    write_run(tmp_path, "others", 0.9, 2e6, data="4567")
    write_run(tmp_path, "exits", 0.8, 5e5, decides=True)
    found = standing(tmp_path)
    assert found.headrooms == []
    assert [row.static.name for row in found.rows] == ["2 (fast)"]  # of equal cost the better one


def test_the_page_has_headroom_first_and_warns_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "small", 0.6, 1e6)
    write_run(tmp_path, "large", 0.6025, 2e6)
    write_run(tmp_path, "exits", 0.6, 1.5e6, decides=True)
    report_folder(tmp_path)
    html, out = (tmp_path / "index.html").read_text(), capsys.readouterr().out
    assert out.lstrip().startswith("headroom, in this sweep  +0.003 (")
    warning = "No adaptive model can win here: take 1 (small)."
    assert warning in html
    assert warning in out
    assert html.index("standard errors of headroom") < html.index("<span>jobs</span>")
    assert ">Beside static models</h2>" in html
    assert html.count("2 (exits)") == 1
