"""scripts/studies/gates.py and listening.py: what gates open, and tables of counts that were made up."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from hopscotch.cli import main
from hopscotch.detection import Counts
from hopscotch.evaluate import load
from scripts.studies import gates, listening
from scripts.studies.gates import Gate, Loaded, everything, hear, of_events
from scripts.studies.listening_table import beside_static, misses
from tests.word_streams import words_in_noise

SMALL = ["model.dim=8", "model.heads=1", "model.depth=1", "frontend.num_mels=8", "data.sample_rate=4000"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("listening")
    words = words_in_noise(root, "task=detect", "model=always_on", "frontend=log_mel_stream", *SMALL)
    quiet = ["callbacks=quiet", "logger=csv", "trainer=cpu", "trainer.max_steps=2", "seed=0"]
    main(["train", *words, *quiet, f"hydra.run.dir={root / 'run'}"])
    return root / "run"


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return gates.load_at(run, 24.0, 12.0)


def test_gates_open_what_they_are_asked_to(loaded: Loaded) -> None:
    num_events = sum(len(one.events) for one in hear(loaded, "val").recordings)
    whole, oracle = (hear(loaded, "val", Gate(scores)) for scores in (everything, of_events))
    assert whole.opened[:, 0].tolist() == [1.0] * len(whole.recordings)
    assert whole.opened[:, 1].sum() == oracle.opened[:, 1].sum() == num_events > 0
    assert oracle.macs.sum() < whole.macs.sum()
    drawn = Gate(gates.drawn)
    drawn.open_as_much(loaded, 0.4)
    assert hear(loaded, "val", drawn).opened[:, 0].mean() == pytest.approx(0.4, abs=0.05)
    sure = gates.make_gate("own, 75 %", loaded)
    assert 0.75 <= hear(loaded, "val", sure).opened[:, 1].sum() / num_events < 1.0
    loud = Gate(gates.energy)
    loud.catch_as_many(loaded, 0.5)
    caught = hear(loaded, "val", loud).opened[:, 1].sum() / num_events
    assert 0.5 <= caught < 1.0


def test_the_run_s_own_decisions_are_those_of_its_evaluation(run: Path, loaded: Loaded) -> None:
    own = hear(loaded, "test")
    model = load(run).task.model
    with torch.no_grad():
        batch = next(iter(loaded.batches("test")))
        trace = model(batch.waveform, batch.lengths).trace
    assert own.macs[: len(batch.lengths)].tolist() != [0] * len(batch.lengths)
    assert trace.decisions.tokens is not None
    assert own.opened[: len(batch.lengths), 0] == pytest.approx(
        (trace.decisions.tokens.sum(dim=1) / trace.decisions.positions).numpy()
    )


def test_a_study_goes_on_where_it_was_left(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(run), "--out", str(tmp_path), "--duty", "20"]
    listening.main(words)
    counts = pd.read_csv(tmp_path / "counts.csv")
    assert len(counts) == 4  # test recordings
    monkeypatch.setattr(listening, "hear", None)
    listening.main(words)  # would fail if it measured again
    listening.main([*words, "--table"])
    assert "always on, 1 x 8" in (tmp_path / "tables.md").read_text()


def made_up(what: str, gate: str, missed: int, macs: float) -> pd.DataFrame:
    """Ten recordings of an hour with ten events each."""
    rows = pd.DataFrame(0.0, index=range(10), columns=list(Counts._fields))
    facts = {"what": what, "gate": gate, "duty": 1.0, "seed": 0, "macs": macs * 3600e6, "awake": 0.5, "caught": 9}
    return rows.assign(events=10, hours=1.0, missed_2=missed, recording=range(10), **facts)


def test_the_cheapest_static_model_with_no_more_misses_stands_beside() -> None:
    static = [
        made_up(f"static, {size}", "own", missed, macs)
        for size, missed, macs in (("a", 5, 1), ("b", 3, 4), ("c", 2, 9))
    ]
    counts = pd.concat([*static, made_up("always on", "own", 3, 2.0), made_up("always on", "all", 2, 8.0)])
    first, second = beside_static(counts).rows
    assert first[3:] == ["static, b (cheapest with no more misses)", "2.000 (2.000 to 2.000)", "0.000 (0.000 to 0.000)"]
    assert second[3:] == ["its full model, always on", "4.000 (4.000 to 4.000)", "-0.100 (-0.100 to -0.100)"]
    counts.loc[(counts.what == "always on") & (counts.gate == "own"), "missed_2"] = 1
    first = beside_static(counts).rows[0]
    assert first[3:] == ["static, c (fewest misses)", "4.500 (4.500 to 4.500)", "0.100 (0.100 to 0.100)"]
    by_model = {row[1] + row[2]: row for row in misses(counts).rows}
    assert by_model["static, cown"][3:7] == ["9.00", "0.500", "0.900", "0.800 (0.800 to 0.800)"]
