"""The report of a sweep: what failed is named, what is linked is there."""

import csv
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from hopscotch.report.frontier import frontier_figure
from hopscotch.report.records import group_records, logged_error, points_of, read_records
from hopscotch.sweep import append_ledger, report_folder
from tests.test_records import write_run


def links(folder: Path) -> list[Path]:
    html = (folder / "index.html").read_text(encoding="utf-8")
    return [folder / unquote(address) for address in re.findall(r'<a href="([^"#][^"]*)"', html)]


def test_the_page_links_to_reports_where_there_are_any_and_else_to_folders(tmp_path: Path) -> None:
    write_run(tmp_path / "0 a#b=[1,2]", "model=dense", "seed=0")
    write_run(tmp_path / "1_dense", "model=dense", "seed=1")
    report = tmp_path / "1_dense" / "report" / "index.html"
    report.parent.mkdir()
    report.write_text("")
    report_folder(tmp_path)
    found = links(tmp_path)
    assert len(found) == 4  # by row and by job
    assert set(found) == {tmp_path / "0 a#b=[1,2]", report}


def test_a_sweep_is_named_by_its_models_and_a_row_says_by_what_it_is_best(tmp_path: Path) -> None:
    for model, accuracy, macs in (("dense", 0.9, 4e6), ("skip", 0.8, 1e6), ("bad", 0.7, 2e6)):
        write_run(tmp_path / f"0_{model}_seed-0", f"model={model}", "seed=0", acc=accuracy, macs=macs)
    report_folder(tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<h1>(.*)</h1>", html) == ["Sweep of bad, dense, skip"]
    assert "<th>Pareto</th>" in html
    assert len(re.findall(r"<td>compute(, time)?</td>", html)) == 2


def test_a_sweep_half_done_is_reported_as_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"dense_{seed}", "model=dense", f"seed={seed}", acc=0.9 + 0.02 * seed)
    write_run(tmp_path / "skip_0", "model=skip", "seed=0", acc=0.8)
    (tmp_path / "skip_1").mkdir()
    (tmp_path / "skip_1" / "overrides.yaml").write_text("- model=skip\n- seed=1\n")
    (tmp_path / "model-skip_seed-2.log").write_text("Error: model.dim <must> be at least 1, got 0.\n")
    append_ledger(tmp_path, {"folder": "skip_3", "overrides": ["model=skip"], "status": "failed"})
    with (tmp_path / "sweep.jsonl").open("a") as file:
        file.write('{"folder": "cut sho')
    report_folder(tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    assert "3 of 6 jobs have finished" in html
    assert "model.dim &lt;must&gt; be at least 1, got 0." in html
    assert "are lacking in 1 (skip)" in html or "are lacking in 2 (skip)" in html
    for told in (
        "3 of 6 jobs failed or never ended",
        "no summary skip_1",
        "model-skip_seed-2: model.dim <must>",
        "failed skip_3",
    ):
        assert told in out
    assert out.splitlines()[-1] == f"look closer: {tmp_path / 'index.html'}"


def test_what_all_jobs_were_given_is_said_once(tmp_path: Path) -> None:
    for model in ("dense", "skip"):
        write_run(tmp_path / model, f"model={model}", "seed=0", "data.root=x", f"model.dim={len(model)}")
    report_folder(tmp_path)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert html.count("data.root=x") == html.count("For all alike: data.root=x") == 1
    assert "model.dim=4" in html
    assert "model.dim=5" in html


def test_the_tables_say_what_the_picture_shows(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.94)):
        write_run(tmp_path / f"dense_{seed}", "model=dense", f"seed={seed}", acc=accuracy, macs=4e6)
        write_run(tmp_path / f"skip_{seed}", "model=skip", f"seed={seed}", acc=0.8 + seed / 10, macs=1e6)
    write_run(tmp_path / "bad", "model=bad", "seed=0", acc=0.7, macs=2e6)
    report_folder(tmp_path)
    rows = list(csv.DictReader((tmp_path / "groups.csv").read_text().splitlines()))
    assert [(row["model"], row["runs"], row["macs_m"], row["pareto"]) for row in rows] == [
        ("skip", "2", "1.0", "yes"),
        ("bad", "1", "2.0", "no"),
        ("dense", "2", "4.0", "yes"),
    ]
    assert float(rows[2]["acc"]) == pytest.approx(0.92)
    assert float(rows[2]["acc_sd"]) == pytest.approx(0.04 / 2**0.5)
    assert (rows[2]["acc_low"], rows[2]["acc_high"], rows[1]["acc_low"]) == ("0.9", "0.94", "")
    markdown = (tmp_path / "groups.md").read_text()
    assert "3 | dense" in markdown
    assert " | 0.9200 | 0.0283 | 0.9000 | 0.9400 | 0.500 | 4.000 | 8.0 | 2.00 | yes" in markdown
    assert (tmp_path / "frontier.png").stat().st_size > 5000
    axes = frontier_figure(group_records(points_of(read_records(tmp_path)))).axes[0]
    drawn = {tuple(np.round(point, 6)) for mark in axes.collections for point in np.asarray(mark.get_offsets())}
    assert {(1.0, 0.85), (2.0, 0.7), (4.0, 0.92)} <= drawn
    assert {text.get_text() for text in axes.texts} == {"1", "3"}


def test_a_sweep_without_a_finished_job_has_a_page_and_no_picture(tmp_path: Path) -> None:
    write_run(tmp_path / "0_a", "model=dense", "seed=0", status="failed")
    report_folder(tmp_path)
    assert "0 of 1 jobs have finished" in (tmp_path / "index.html").read_text()
    assert not (tmp_path / "frontier.png").exists()


def test_baselines_of_another_study_stand_beside(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "a", "model=skip", "seed=0", acc=0.9)
    write_run(tmp_path / "two" / "b", "baseline=depth_2", "seed=0", acc=0.8, macs=1e6)
    report_folder(tmp_path / "one", [tmp_path / "two"])
    rows = list(csv.DictReader((tmp_path / "one" / "groups.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["baseline: depth", "skip"]
    assert tmp_path / "one" / ".." / "two" / "b" in links(tmp_path / "one")
    assert len(read_records(tmp_path / "one")) == 1


def test_a_sweep_beside_itself_is_counted_once(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "a", "model=skip", "seed=0")
    report_folder(tmp_path / "one", [tmp_path / "one", tmp_path / "one" / ".." / "one"])
    rows = list(csv.DictReader((tmp_path / "one" / "groups.csv").read_text().splitlines()))
    assert [row["runs"] for row in rows] == ["1"]
    assert "Beside it" not in (tmp_path / "one" / "index.html").read_text(encoding="utf-8")


def test_what_is_no_job_is_not_counted_as_one(tmp_path: Path) -> None:
    write_run(tmp_path / "model-dense_seed-0", "model=dense", "seed=0")
    for name in ("model-dense_seed-0", "model-dense_seed-1", "model-dense_0123abcd", "in_progress", "nohup"):
        (tmp_path / f"{name}.log").write_text("words\n")
    for name in ("in_progress", "notes"):
        (tmp_path / name).mkdir()
    names = {"model-dense_seed-0", "model-dense_seed-1", "model-dense_0123abcd", "in_progress"}
    assert {job.folder for job in read_records(tmp_path)} == names


def test_the_reason_in_a_log_is_its_last_error_or_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "seed-0.log"
    assert logged_error(log) is None
    log.write_text("\n")
    assert logged_error(log) is None
    log.write_text("reading\nseed must be at least 0, got -1.\n\n")
    assert logged_error(log) == "seed must be at least 0, got -1."
    log.write_text("Error: first\nError: second\nrun: outputs/x\n")
    assert logged_error(log) == "second"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "there is no run in it"),
        (lambda folder: write_run(folder, "model=dense"), "which is that of a single run"),
    ],
)
def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path, make, words: str) -> None:
    make(tmp_path / "given")
    with pytest.raises(ValueError, match=rf"^sweep must be the folder of a sweep, got .*given.*{words}"):
        report_folder(tmp_path / "given")
