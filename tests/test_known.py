"""A run's folder names what is to be read only where the user has trained with it, or types it."""

import shutil
from pathlib import Path

import pytest

from hopscotch.config.compose import compose
from hopscotch.config.errors import plain_config
from hopscotch.config.typed import Again
from hopscotch.evaluate import load
from hopscotch.known import notes, paths_in, refuse_unknown, remember
from hopscotch.registry import check_stored, without_cache
from tests.tiny import Command, tiny_folder, write_tones


def moved_to(run: Path, root: Path) -> None:
    """Let the stored configuration name another folder of data."""
    config = (run / "config.yaml").read_text(encoding="utf-8")
    lines = [f"  root: {root}" if line.startswith("  root: ") else line for line in config.splitlines()]
    (run / "config.yaml").write_text("\n".join(lines), encoding="utf-8")


def test_data_that_a_run_names_are_read_once_the_user_has_trained_with_them(
    trained: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root = Path(shutil.copytree(trained, tmp_path / "run")), write_tones(tmp_path / "other")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    moved_to(run, root)
    with pytest.raises(ValueError, match=f"config.yaml names data.root={root}, with which you have not trained here"):
        load(run)
    with pytest.raises(ValueError, match=r"type data\.root=<path> too"):
        load(run, ["data.batch_size=2"])
    assert load(run, [f"data.root={root}"]).data.num_classes == 3
    assert load(run, ["data=folder", f"data.root={root}"]).data.num_classes == 3
    assert not notes().exists()  # what is typed for one command holds for that one
    remember({"data": {"root": str(root)}})
    assert load(run).data.num_classes == 3


def test_training_notes_its_data_and_a_refused_one_does_not(
    command: Command, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert command(*tiny_folder(tones), "model.dim=16", "compute.budget=0.5").code == 1
    assert not notes().exists()
    words = ["model=dense", "model.dim=16", "model.heads=2", "model.depth=1", "debug=fdr", "~logger"]
    assert command(*tiny_folder(tones), *words, "hydra.run.dir=run").code == 0
    assert notes().read_text() == f'"{tones}"\n'


def test_a_report_of_unknown_data_is_without_sound(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hopscotch.report.run_folder import RunFolder
    from hopscotch.report.run_page import find_sounds

    run = Path(shutil.copytree(trained, tmp_path / "run"))
    monkeypatch.setattr(RunFolder, "clips", ["one"])
    moved_to(run, Path("/"))
    sounds, why = find_sounds(RunFolder(run), lambda _: pytest.fail("its data are looked for"), [])
    assert sounds is None
    assert "names data.root=/, with which you have not trained here" in why


def test_a_run_is_not_repeated_on_unknown_data(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "overrides.yaml").write_text("- data=folder\n", encoding="utf-8")
    moved_to(run, Path("/"))
    with pytest.raises(ValueError, match=r"names data\.root=/, with which you have not trained"):
        Again([f"again={run}"]).words()
    assert Again([f"again={run}", f"data.root={tmp_path}"]).words() == ["data=folder"]


def test_noise_that_a_run_names_is_neither_read_again_nor_repeated_unless_it_is_known(
    trained: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    config = (run / "config.yaml").read_text(encoding="utf-8")
    for key in ("noise", "impulse_responses"):
        named = config.replace(f"  {key}: null", f"  {key}: {tmp_path / 'secret'}", 1)
        assert named != config
        (run / "config.yaml").write_text(named, encoding="utf-8")
        (run / "overrides.yaml").write_text(f"- data=folder\n- augment.{key}=x\n", encoding="utf-8")
        assert load(run).cfg.augment[key] is None
        with pytest.raises(ValueError, match=rf"names augment\.{key}={tmp_path / 'secret'}, with which you have not"):
            Again([f"again={run}"]).words()
        assert Again([f"again={run}", f"augment.{key}=mine"]).words()[0] == "data=folder"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    remember({"data": {"root": str(tones)}, "augment": {"impulse_responses": str(tmp_path / "secret")}})
    assert Again([f"again={run}"]).words()[1] == f'augment.impulse_responses="{tmp_path / "secret"}"'


def test_paths_are_the_data_the_checkpoint_and_all_that_look_like_one() -> None:
    data = {"root": "here", "split": "official", "cache_dir": "/c", "manifest": "a/b.csv", "more": [{"x": "~x"}, 5]}
    found = paths_in({"data": data, "ckpt_path": "last.ckpt", "run_dir": "/r"})
    assert found == {"data.root": "here", "data.manifest": "a/b.csv", "data.more.0.x": "~x", "ckpt_path": "last.ckpt"}
    assert paths_in({"data": 5, "ckpt_path": None}) == {}


def test_a_path_is_known_letter_by_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for _ in range(2):
        remember({"data": {"root": "/clips\n2"}, "ckpt_path": None})
    assert notes().read_text() == '"/clips\\n2"\n'
    refuse_unknown({"data": {"root": "/clips\n2"}}, "config.yaml")
    for other in ("/clips", "/clips\n2/..", "/", "2", ""):
        with pytest.raises(ValueError, match="have not trained"):
            refuse_unknown({"data": {"root": other}}, "config.yaml")


def test_where_nothing_can_be_noted_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember({"data": {"root": "/clips"}})
    with pytest.raises(ValueError, match="have not trained"):
        refuse_unknown({"data": {"root": "/clips"}}, "config.yaml")


def test_the_sources_of_streams_are_guarded_as_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = {"clips": {"root": "words", "cache_dir": "/c"}, "background": {"root": "noise", "group_by": "(a+)+"}}
    wanted = {"data.clips.root": "words", "data.background.root": "noise", "data.background.group_by": "(a+)+"}
    assert paths_in({"data": data}) == wanted
    with pytest.raises(ValueError, match=r"names data\.background\.root=noise, with which you have not trained here"):
        refuse_unknown({"data": data}, "config.yaml", ["data.clips.root=x"])
    remember({"data": data})
    refuse_unknown({"data": data}, "config.yaml")


def test_a_stored_configuration_names_the_sources_of_streams_by_their_exact_names() -> None:
    config = plain_config(compose(["data=streams", "data.clips.root=words", "data.background.root=noise"]))
    check_stored(config, "config.yaml")
    for key, wrong in (("clips", "hopscotch.data.streams.Streams"), ("background", "os.system")):
        part = {**config["data"][key], "_target_": wrong}
        with pytest.raises(ValueError, match=rf"names {wrong} at data\.{key}\._target_, and what comes with a run is"):
            check_stored({**config, "data": {**config["data"], key: part}}, "config.yaml")
    with pytest.raises(ValueError, match=r"data\.events_per_minute in config\.yaml must be at most 600"):
        check_stored({**config, "data": {**config["data"], "events_per_minute": 1e9}}, "config.yaml")


def test_the_sources_of_streams_are_kept_in_our_own_folders_and_fetch_nothing() -> None:
    nested = {"root": "r", "cache_dir": "/theirs", "fetch": True}
    ours = {"root": "r", "cache_dir": None, "fetch": False}
    config = {"data": {"clips": nested, "cache_dir": "/theirs", "more": {"fetch": True}}, "fetch": True}
    assert without_cache(config) == {"data": {"clips": ours, "cache_dir": None, "more": {"fetch": True}}, "fetch": True}
