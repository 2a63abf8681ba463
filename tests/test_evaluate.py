"""What scripts/evaluate.py finds is what the end of training found; other clips, noise and budgets come on top."""

import csv
import json
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import hydra._internal.hydra as hydra_main
import pytest
import torch

from hopscotch.config.compose import run_hydra
from hopscotch.data.audio import AudioFileError
from hopscotch.evaluate import configuration, evaluate, load, parse
from hopscotch.known import remember
from hopscotch.report.clips import read_clips
from hopscotch.restore import stored_config
from hopscotch.run import train
from hopscotch.system import PROJECT_ROOT
from tests.tiny import CLASS_HZ, TINY_MODEL, TINY_RUN, Command, tiny_folder, write_tone, write_tones


@pytest.fixture(scope="module")
def trained(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run for all tests here, as `python train.py` leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["model=skip_transformer", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, f"hydra.run.dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydra_main, "ConfigLoaderImpl", hydra_main.ConfigLoaderImpl)
        patch.setattr("sys.argv", ["train.py", *words])
        run_hydra(train)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def write_other_tones(root: Path, words: dict[str, str]) -> Path:
    """Tones like those of training, four a class; `words` are other names for some classes."""
    for name, hz in CLASS_HZ.items():
        for i in range(4):
            write_tone(root / words.get(name, name) / f"{i}.wav", hz * (1 + 0.015 * i), 0.14 + 0.02 * i)
    return root


def test_the_figures_of_training_come_out_again_to_the_last_digit(run: Path) -> None:
    folder = evaluate(run)
    assert folder == run / "report" / "evaluation"
    found, summary = read_json(folder / "metrics.json"), read_json(run / "summary.json")
    assert found["test"] == summary["test"]
    assert found["acc"] == summary["test"]["acc"]
    assert found["compute"] == {key: summary["compute"][key] for key in found["compute"]}
    assert found["data"] == summary["data"]
    assert found["time_fraction"] > 0
    assert (folder / "clips.csv").read_text() == (run / "report" / "clips.csv").read_text()


def test_compute_by_class_is_that_of_the_table_of_clips(run: Path) -> None:
    folder = evaluate(run)
    rows = read_clips(folder / "clips.csv")
    per_class = read_json(folder / "metrics.json")["per_class"]
    assert [row["label"] for row in per_class] == sorted(CLASS_HZ)
    for row in per_class:
        of_class = [clip for clip in rows if clip.label == row["label"]]
        assert row["compute"] == sum(clip.macs for clip in of_class) / sum(clip.dense_macs for clip in of_class)
        assert row["macs"] == sum(clip.macs for clip in of_class) / len(of_class)
        assert row["acc"] == sum(clip.is_right for clip in of_class) / len(of_class)
    table = read_csv(folder / "per_class.csv")
    assert [float(row["compute"]) for row in table] == [row["compute"] for row in per_class]


def test_one_table_holds_every_budget_in_every_noise(run: Path) -> None:
    folder = evaluate(run, ["compute.budget=[0.9,1.0]"], snr=[20, 0])
    rows = read_csv(folder / "conditions.csv")
    assert [(row["requested"], row["condition"]) for row in rows] == [
        (budget, condition) for budget in ("0.9", "1.0", "") for condition in ("clean", "20 dB", "0 dB")
    ]
    assert [float(row["fraction"]) for row in rows[3:6]] == [1.0] * 3
    assert float(rows[6]["fraction"]) == read_json(run / "summary.json")["compute"]["fraction"], "as trained, last"
    assert float(rows[6]["acc"]) == read_json(run / "summary.json")["test"]["acc"]
    assert read_json(folder / "metrics.json")["compute"]["fraction"] == float(rows[0]["fraction"]) < 1.0
    clean = [row for row in rows if row["condition"] == "clean"]
    kept = read_csv(run / "report" / "budgets.csv")
    assert [row["requested"] for row in kept] == ["0.9", "1.0", ""]
    assert [(row["fraction"], row["acc"]) for row in kept] == [(row["fraction"], row["acc"]) for row in clean]
    assert (folder / "conditions.png").stat().st_size > 1000
    head, _, *lines = (folder / "conditions.md").read_text().splitlines()
    assert head.startswith("| condition | requested |")
    assert [line.split(" | ")[5] for line in lines] == [f"{float(row['acc']):.4f}" for row in rows]
    head, _, *lines = (run / "report" / "budgets.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in (head, *lines)] == [
        "| requested",
        "| 0.900",
        "| 1.000",
        "| as trained",
    ]


def test_recorded_noise_and_rooms_are_conditions_that_name_their_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone(tmp_path / "kitchen" / "hum.wav", 90, 0.5)
    write_tone(tmp_path / "halls" / "one.wav", 900, 0.05)
    folders = {"noise": tmp_path / "kitchen", "impulse_responses": tmp_path / "halls"}
    noise, rooms = folders.values()
    folder = evaluate(run, ["compute.budget=1.0"], snr=[20, 0], noise=noise, impulse_responses=rooms)
    found, rows = read_json(folder / "metrics.json"), read_csv(folder / "conditions.csv")
    assert [row["condition"] for row in rows] == ["clean", "in halls", "20 dB, kitchen", "0 dB, kitchen"]
    assert [row["snr_db"] for row in rows] == ["", "", "20", "0"]
    assert {key: found[key] for key in folders} == {key: str(path) for key, path in folders.items()}
    assert [row["requested"] for row in read_csv(run / "report" / "budgets.csv")] == ["1.0"]  # of the clean clips
    assert "\n0 dB, kitchen " in capsys.readouterr().out


def test_test_clips_in_the_noise_are_named(run: Path, tones: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(run, snr=[0], noise=tones)
    assert "data: 21 clips are recordings of noise, too: " in caplog.text


def test_the_curve_is_kept_and_its_compute_rises_with_the_budget(run: Path) -> None:
    evaluate(run, ["compute.budget=[0.01,0.9,1.0]"])
    *rows, _ = read_csv(run / "report" / "budgets.csv")
    fractions = [float(row["fraction"]) for row in rows]
    assert [float(row["requested"]) for row in rows] == [0.01, 0.9, 1.0]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.85
    assert fractions[1] < fractions[2] == 1.0
    assert (run / "report" / "budgets.png").stat().st_size > 1000


def test_the_order_of_the_budgets_changes_nothing(run: Path) -> None:
    there = read_csv(evaluate(run, ["compute.budget=[0.8,0.95]"]) / "conditions.csv")
    back = read_csv(evaluate(run, ["compute.budget=[0.95,0.8]"]) / "conditions.csv")
    assert there[:2] == back[1::-1]
    assert there[2] == back[2]


def test_the_picture_of_an_earlier_evaluation_does_not_stay(run: Path) -> None:
    folder = evaluate(run, snr=[10])
    assert (folder / "conditions.png").stat().st_size > 1000
    evaluate(run)
    assert not (folder / "conditions.png").exists()


def test_results_go_where_out_says_and_nowhere_else(run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    assert evaluate(run, ["compute.budget=0.9"], out=tmp_path / "out") == tmp_path / "out"
    assert {"clips.csv", "metrics.json", "budgets.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert sorted(run.rglob("*")) == before


def test_budgets_on_other_clips_are_not_shown_as_those_of_the_run(run: Path, tmp_path: Path) -> None:
    write_tones(tmp_path / "others", clips_per_class=9)
    folder = evaluate(run, ["data=folder", f"data.root={tmp_path / 'others'}", "compute.budget=0.9"])
    again = evaluate(run, ["compute.budget=0.9"], ckpt=run / "checkpoints" / "best.ckpt", out=tmp_path / "out")
    assert (folder / "budgets.csv").is_file()
    assert (again / "budgets.csv").is_file()
    assert not (run / "report" / "budgets.csv").exists()


def test_what_is_printed_holds_accuracy_classes_and_conditions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluate(run, snr=[10])
    printed = capsys.readouterr().out
    found = read_json(folder / "metrics.json")
    assert f"test acc           {found['acc']:.4f}  (" in printed
    assert "95 % over 3 clips)" in printed
    assert all(re.search(rf"^{name} +1 ", printed, re.MULTILINE) for name in CLASS_HZ)
    assert re.search(rf"^10 dB +{found['conditions'][1]['fraction']:.3f} ", printed, re.MULTILINE)
    assert "warning" not in printed


def test_another_checkpoint_of_the_run_is_judged(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    head = [name for name in checkpoint["state_dict"] if name.startswith("model.head.") and name.endswith("bias")][-1]
    checkpoint["state_dict"][head][:] = torch.tensor([0.0, 0.0, 1000.0])
    torch.save(checkpoint, tmp_path / "other.ckpt")
    folder = evaluate(run, ckpt=tmp_path / "other.ckpt")
    assert {row.prediction for row in read_clips(folder / "clips.csv")} == {"middle"}
    assert read_json(folder / "metrics.json")["checkpoint"] == str(tmp_path / "other.ckpt")


def test_other_clips_of_the_same_classes_are_judged_with_the_batches_of_the_run(run: Path, tmp_path: Path) -> None:
    root = write_other_tones(tmp_path / "mine", {})
    words = ["data=folder", f"data.root={root}", "data.test_fraction=0.5", "data.val_fraction=0.25"]
    cfg, _, data = load(run, words)
    assert (cfg.data.sample_rate, cfg.data.batch_size) == (8000, 4)
    assert len(data.clips["test"]) == 4  # of 12, by the hashes of their names
    folder = evaluate(run, words)
    assert {(root / row.path).exists() for row in read_clips(folder / "clips.csv")} == {True}
    assert sum(row["clips"] for row in read_json(folder / "metrics.json")["per_class"]) == 4


def test_a_target_that_other_clips_cannot_reach_does_not_matter(run: Path, tmp_path: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  target: auto", "  target: 0.0001", 1))
    with pytest.raises(ValueError, match=r"compute\.target must lie between the floor"):
        load(run)
    root = write_other_tones(tmp_path / "mine", {})
    assert len(load(run, ["data=folder", f"data.root={root}"]).data.clips["test"]) == 3


def test_classes_come_out_in_the_order_that_the_model_knows(run: Path) -> None:
    order = ["middle", "high", "low"]
    summary = read_json(run / "summary.json")
    summary["data"]["classes"] = order
    (run / "summary.json").write_text(json.dumps(summary))
    best = run / "checkpoints" / "best.ckpt"
    torch.save(torch.load(best, weights_only=True) | {"classes": order}, best)
    best.with_name("best.ckpt.sha256").unlink()
    _, task, data = load(run)
    assert data.classes == order == task.classes  # pyright: ignore[reportAttributeAccessIssue]
    for clip in data.clips["test"]:
        assert clip.name.startswith(order[int(clip.label)])  # pyright: ignore[reportArgumentType]
    for batch in data.test_dataloader():
        assert batch.labels.tolist() == [data.clips["test"][index].label for index in batch.indices.tolist()]


def test_classes_that_differ_are_named(run: Path, tmp_path: Path) -> None:
    root = write_other_tones(tmp_path / "mine", {"middle": "centre"})
    with pytest.raises(ValueError, match="must be among the 3 that the model was trained on, got centre"):
        load(run, ["data=folder", f"data.root={root}"])


def test_a_class_without_clips_here_is_named_and_the_others_are_judged(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_other_tones(tmp_path / "mine", {})
    shutil.rmtree(root / "middle")
    folder = evaluate(run, ["data=folder", f"data.root={root}"])
    assert "1 of the 3 classes have no clip here: middle" in caplog.text
    rows = {row["label"]: row for row in read_json(folder / "metrics.json")["per_class"]}
    assert {name: row["clips"] for name, row in rows.items()} == {"high": 1, "low": 1, "middle": 0}
    assert rows["middle"]["acc"] is None


def test_the_classes_of_a_run_that_has_not_ended_are_those_of_its_own_clips(run: Path, tmp_path: Path) -> None:
    (run / "summary.json").unlink()
    assert load(run).data.classes == sorted(CLASS_HZ)
    root = write_other_tones(tmp_path / "mine", {"middle": "centre"})
    with pytest.raises(ValueError, match=r"that the model was trained on, got centre"):
        load(run, ["data=folder", f"data.root={root}"])


def test_clips_that_changed_since_training_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tones(tmp_path / "more", clips_per_class=9)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"\broot: .*", f"root: {tmp_path / 'more'}", text))
    remember({"data": {"root": str(tmp_path / "more")}})
    evaluate(run)
    assert "warning: the test set differs from the one of the training run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compute.budgets=1"], r"An override must be key=value with a key of .* Did you mean compute.budget\?"),
        (["nonsense"], "An override must be key=value with a key of"),
        (["compute.budget=[0.5"], "An override must be key=value with a key of"),
        (["compute.budget=[2.0]"], "compute.budget must be null, a fraction above 0 and up to 1, or a list of some"),
        (["compute.budget=[]"], r"or a list of some, got \[\]"),
        (["data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
        (["data.sample_rate=16000"], "data.sample_rate must stay that of the model, 8000, got 16000"),
        (["data=folder", "data.root=x", "data.sample_rate=16000"], "data.sample_rate must stay that of the model"),
        (["data=folder"], "data.root must be given"),
        (["data=folders"], "data must be one of .* Did you mean folder"),
        (["data=folder", "data.rot=x"], "there is no key data.rot. Did you mean data.root"),
        (["trainer.accelerator=tpus"], "trainer.accelerator must be one of"),
    ],
)
def test_a_wrong_override_is_named(trained: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(trained, overrides)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be the folder of a run, got .*: no config\.yaml there"):
        load(tmp_path)


def test_a_run_without_checkpoint_is_named(run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"a run that kept a checkpoint, got .*: no checkpoints.best\.ckpt there yet"):
        load(run)
    load(run, ckpt=run / "checkpoints" / "last.ckpt")


def test_a_budget_is_refused_by_a_model_that_decides_nothing(command: Command, tones: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dense"
    words = ["model=dense", *tiny_folder(tones), *TINY_MODEL, *TINY_RUN, f"hydra.run.dir={folder}"]
    assert command(*words).code == 0
    with pytest.raises(ValueError, match=r"compute\.budget has no meaning for model=dense, which makes no decisions"):
        evaluate(folder, ["compute.budget=0.9"])
    assert read_json(evaluate(folder) / "metrics.json")["compute"]["fraction"] == 1.0


def test_a_budget_given_to_training_is_refused(command: Command, tones: Path) -> None:
    ended: Any = command(*tiny_folder(tones), *TINY_MODEL, *TINY_RUN, "hydra.run.dir=run", "compute.budget=0.8")
    assert ended.code == 1
    assert "compute.budget must stay null in training, got 0.8" in ended.err


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> str | int | None:
    """How `python scripts/evaluate.py <words>` ends: text is printed, with exit code 1."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", *words])
    try:
        runpy.run_path(str(PROJECT_ROOT / "scripts" / "evaluate.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_the_folder_is_the_last_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, f"run={run}") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report" / "evaluation")


def test_a_mistake_ends_the_command_with_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(typed(monkeypatch, f"run={tmp_path}")).startswith("Error: run must be the folder of a run")
    (tmp_path / "broken.ckpt").write_text("nothing")
    ended = str(typed(monkeypatch, f"run={trained}", f"ckpt={tmp_path / 'broken.ckpt'}"))
    assert ended.startswith("Error: ckpt must be a checkpoint that train.py wrote")
    ended = str(typed(monkeypatch, f"run={trained}", f"out={tmp_path / 'broken.ckpt'}"))
    assert ended.startswith("Error: ")
    assert "broken.ckpt" in ended
    assert "\n" not in ended


def test_help_shows_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, "--help") == 0
    assert "hopscotch evaluate RUN compute.budget=[0.7,0.8,0.9]" in capsys.readouterr().out
    assert typed(monkeypatch) == 2


def test_what_is_typed_is_told_apart() -> None:
    asked = parse(["run=r", "snr=[20,0.5]", "data=fsdd", "out=o", "compute.budget=0.5", "ckpt=c"])
    paths, overrides = {"run": Path("r"), "ckpt": Path("c"), "out": Path("o")}, ["data=fsdd", "compute.budget=0.5"]
    rest = {"trust": [], "against": None}
    assert asked == {**paths, "overrides": overrides, "snr": [20.0, 0.5], **rest}
    assert parse(["run=r", "snr=5"]) == {"run": Path("r"), "overrides": [], "snr": [5.0], **rest}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["snr=5"], "run must be given"),
        (["run=a", "run=b"], "run must be given once, got run=a and run=b"),
        (["run=a", "snr=loud"], r"snr must be a level in dB or a list of them, such as snr=\[20,10,0\], got loud"),
        (["run=a", "snr=[1,"], "snr must be a level in dB or a list of them"),
        (["run=a", "snr=.inf"], "snr must be a level in dB or a list of them"),
        (["run=a", "noise=."], "noise needs levels in dB beside it, such as .*, got noise=. alone"),
        (["run=a", "snr=5", "noise=nowhere"], "noise must be a folder, got .*nowhere, which does not exist"),
        (["run=a", "impulse_responses=nowhere"], "impulse_responses must be a folder, got .*nowhere, which does not"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(words)


def test_other_clips_keep_the_limits_of_the_run_unless_typed(run: Path, tmp_path: Path) -> None:
    config = run / "config.yaml"
    changed = (
        config.read_text().replace("on_bad: raise", "on_bad: skip").replace("max_seconds: 30.0", "max_seconds: 7.5")
    )
    config.write_text(changed.replace("max_bad: 0.05", "max_bad: 0.5"))
    root = write_other_tones(tmp_path / "other", {})
    as_trained = stored_config(run)
    cfg = configuration(run, as_trained, ["data=folder", f"data.root={root}", "data.max_bad=0.25"])
    assert (cfg.data.on_bad, cfg.data.max_seconds, cfg.data.max_bad) == ("skip", 7.5, 0.25)
    cfg = configuration(run, as_trained, ["data=synthetic_words", "data.num_test=5"])
    assert (cfg.data.max_seconds, cfg.data.num_test, cfg.data.sample_rate) == (7.5, 5, 8000)


def test_bad_test_clips_are_counted_beside_the_metric_and_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "other"
    for split in ("train", "val", "test"):
        write_other_tones(root / split, {})
    for number in range(2):
        (root / "test" / "high" / f"bad{number}.wav").write_text("no audio")
    words = ["data=folder", f"data.root={root}"]
    with pytest.raises(AudioFileError, match="2 bad files"):
        evaluate(run, words)
    folder = evaluate(run, [*words, "data.on_bad=skip", "data.max_bad=0.2"])
    assert "over 12 clips, 2 bad files left out)" in capsys.readouterr().out
    assert read_json(folder / "metrics.json")["data"]["bad"] == {"train": 0, "val": 0, "test": 2}
    assert [row["clip"] for row in read_csv(folder / "bad_audio.csv")] == [f"test/high/bad{n}.wav" for n in range(2)]
    evaluate(run)
    assert not (folder / "bad_audio.csv").exists()
