"""Tasks that ship, from audio files to what is predicted: trained, tested, reported, evaluated, exported, predicted."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hopscotch.evaluate import evaluate
from hopscotch.models.heads import NumberHead
from hopscotch.predict import load
from hopscotch.shared import export
from tests.small_models import DIM
from tests.tiny import SAMPLE_RATE, TINY_MODEL, TINY_RUN, Command, write_tone

SPLITS = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
TAGS = ["low;short", "high", "high;short", "low", "", "low"]


def write_table(root: Path, label: Callable[[int], object]) -> Path:
    """24 tones of rising pitch, with the labels in a table."""
    lines = [f"{i}.wav,{label(i)},{split}" for i, split in enumerate(SPLITS)]
    for i in range(len(SPLITS)):
        write_tone(root / f"{i}.wav", 300.0 + 40.0 * i, 0.12 + 0.02 * (i % 3))
    table = root / "table.csv"
    table.write_text("\n".join(["path,label,split", *lines]) + "\n")
    return table


class Case(NamedTuple):
    label: Callable[[int], object]
    metrics: list[str]
    columns: list[str]


CASES = {
    "regress": Case(lambda i: 1000 + 7 * (i * 5 % 11), ["mae", "rmse", "pearson"], ["said", "true"]),
    "tag": Case(lambda i: TAGS[i % 6] or "quiet", ["map", "auc", "f1"], ["tags", "tags_said", "tags_right"]),
}


def typed(table: Path, *more: str) -> list[str]:
    """Arguments of a run on the table, with its report."""
    of_data = ["data=table", f"data.table={table}", f"data.sample_rate={SAMPLE_RATE}", "data.batch_size=4"]
    run = [word for word in TINY_RUN if word not in ("~logger", "callbacks=quiet")]
    return [*of_data, *TINY_MODEL, *run, "hydra.run.dir=run", *more]


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("name", CASES)
def test_a_task_goes_from_files_to_predictions(name: str, command: Command, tmp_path: Path) -> None:
    case = CASES[name]
    table = write_table(tmp_path / "tones", case.label)
    primary = case.metrics[0]
    ended = command(*typed(table, f"task={name}", "model=skip_transformer", "trainer.max_epochs=2"))
    assert ended.code == 0, ended.err
    run = Path("run").absolute()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["primary"]["name"] == primary
    assert summary["primary"]["test"] == summary["test"][primary]
    assert all(math.isfinite(summary["test"][metric]) for metric in case.metrics)
    with (run / "report" / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[1 : 1 + len(case.columns)] == case.columns
    assert len(rows) == 6
    html = (run / "report" / "index.html").read_text()
    assert f"test {primary}, 6 clips" in html
    assert "By class" not in html
    folder = evaluate(run, ["compute.budget=[0.9,1.0]"])
    found = json.loads((folder / "metrics.json").read_text())
    assert found["conditions"][0]["requested"] == 0.9
    assert all(f"test {metric}" in ended.out for metric in case.metrics)
    model, shared = load(run), load(export(run, tmp_path / "shared"))
    for row in rows:
        answer = model(tmp_path / "tones" / row["path"])
        assert shared(tmp_path / "tones" / row["path"]) == answer
        check_answer(row, answer, model.model.head)


def check_answer(row: dict[str, str], answer: Any, head: Any) -> None:
    """Compare what is predicted for a file with the row of its clip."""
    if "said" in row:
        assert float(answer.label) == pytest.approx(float(row["said"]), rel=1e-4)
        assert (answer.confidence, answer.probabilities) == (None, {})
        return
    shares = torch.tensor(list(answer.probabilities.values()))
    over = (shares >= head.thresholds).tolist()
    names = [name for name, is_over in zip(answer.probabilities, over, strict=True) if is_over]
    assert answer.label == ";".join(names)
    assert len(names) == int(row["tags_said"])
    assert answer.confidence == pytest.approx(shares.max().item())


@pytest.mark.parametrize("form", ["csv", "table", "json"])
def test_an_answer_without_confidence_is_written(form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from hopscotch.predict import Predictor, print_answers
    from tests.small_models import SAMPLE_RATE as RATE
    from tests.small_models import make_model

    model = make_model("dense")
    model.head = head = NumberHead(DIM, 1, pooling="statistics", dropout=0.0)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.constant_(head.linear.bias, 2.0)
    head.mean.fill_(10.0)
    head.deviation.fill_(3.0)
    write_tone(tmp_path / "a.wav", 440.0, 0.5)
    write_tone(tmp_path / "long.wav", 440.0, 4.0)
    predictor = Predictor(model, ["age"], RATE, window=1.0)
    assert print_answers(predictor, [tmp_path / "a.wav", tmp_path / "long.wav"], form) == 0  # pyright: ignore[reportArgumentType]
    out = capsys.readouterr().out
    assert "16" in out
    assert "nan" not in out


def test_a_run_that_always_says_the_commonest_class_warns_of_it(command: Command, tmp_path: Path) -> None:
    table = write_table(tmp_path / "tones", lambda i: "rare" if i in (0, 12, 18) else "common")
    ended = command(*typed(table, "model=dense", "optimizer.lr=1e-9"))
    assert ended.code == 0, ended.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["majority_baseline"] == pytest.approx(5 / 6)
    words = "no better than always saying 'common' (0.833)."
    assert (words in summary["warnings"]) == (summary["test"]["acc"] <= 5 / 6 + 1e-6)
    assert words in summary["warnings"]
    assert "test f1" in ended.out
