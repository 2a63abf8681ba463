"""Nothing of a run is written through a link."""

from pathlib import Path

import pytest

from hopscotch.files import refuse_links


def test_links_below_and_above_are_refused(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    (run / "report" / "evaluation").mkdir(parents=True)
    outside.mkdir()
    refuse_links(run, ["report", "README.md", "not/there"])
    (run / "report" / "evaluation" / "a.csv").symlink_to(outside / "a.csv")
    for names in (["report"], ["report/evaluation"], ["report/evaluation/a.csv"]):
        with pytest.raises(ValueError, match=r"a\.csv must not be a symbolic link"):
            refuse_links(run, names)
    (run / "link").symlink_to(outside)
    with pytest.raises(ValueError, match=r"link must not be a symbolic link"):
        refuse_links(run, ["link/x/y"])


def test_a_run_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    refuse_links(tmp_path / "latest", ["README.md"])
    assert list((tmp_path / "run").iterdir()) == []
