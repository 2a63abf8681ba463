"""README and documentation say what is true: their commands compose, their snippets run, their reference is complete.

A fenced block belongs to the marker directly above it, `<!-- snippet: NAME -->`, or `<!-- snippet: NAME FILE -->` where
a snippet has several files.
"""

import importlib
import json
import re
import runpy
import shlex
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from hopscotch.cli import VERBS
from hopscotch.config.compose import CONF, compose
from hopscotch.evaluate import OWN_KEYS
from tests.test_whisper import write_whisper
from tests.tiny import (
    TINY_MODEL,
    TINY_RUN,
    Command,
    skip_without_plugin,
    tiny_folder,
    write_tone,
)

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
STUDIES = ROOT / "scripts" / "studies" / "conf"
GENERATED = {DOCS / "reference" / "api", DOCS / "reference" / "configuration", DOCS / "_build"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in DOCS.rglob("*.md") if not GENERATED & set(page.parents)),
]
MARKER = re.compile(r"<!-- snippet: (\S+?)(?: (\S+))? -->\n(?:```(\w+)\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """A fenced block under a marker."""

    name: str
    file: str  # where it belongs; of the block's language unless the marker says more
    text: str


def snippets() -> list[Snippet]:
    found = []
    for page in PAGES:
        for name, file, language, text in MARKER.findall(page.read_text(encoding="utf-8")):
            found.append(Snippet(name, file or f"snippet.{'py' if language == 'python' else language}", text))
    return found


def files_of(name: str) -> dict[str, str]:
    """The files of a snippet, by their names."""
    return {snippet.file: snippet.text for snippet in snippets() if snippet.name == name}


def commands() -> list[str]:
    """Every command line of the pages, once, without its comment."""
    found = []
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = text.splitlines() if not language else []
            found += [line.partition("  #")[0].strip() for line in lines if re.match(r"(\w+=\S+ )?\S*python3? ", line)]
    return sorted(set(found))


COMMANDS = commands()
NAMES = sorted({snippet.name for snippet in snippets()})
AS_IN_TEST_OPEN = ("extending/schedule", "extending/callback")  # what they show is held there, too
EXTENSIONS = [name for name in NAMES if any(file.startswith("conf/") for file in files_of(name))]

# ------------------------------------------------------------------------------------------------------------- README


def test_the_readme_is_short_and_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 12_000
    assert "python3 scripts/bootstrap.py train model=learned_skip" in COMMANDS
    assert "python3 scripts/bootstrap.py test" in COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_files_that_exist_and_to_no_folder_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    made = ("reference/configuration", "reference/api")
    missing = [link for link in links if not any(part in link for part in made) and not (page.parent / link).exists()]
    assert missing == []
    assert re.findall(r"\.\./shared|/(?:home|root|work|Users)/\S*", text) == []


# ----------------------------------------------------------------------------------------------------------- commands


def test_the_pages_have_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 40
    for start in ("python train.py", "python train.py -m", "python scripts/evaluate.py", "python scripts/study.py"):
        assert any(command.startswith(start) for command in COMMANDS)


def overrides_of(command: str) -> list[str] | None:
    """What a command asks Hydra to compose, its blanks filled in; None where it composes nothing."""
    for blank, word in (("<M>", "dense"), ("<epochs>", "2"), ("<words of the row>", ""), ("<a python", "'<a python")):
        command = command.replace(blank, word)
    command = command.replace("speechbrain>", "speechbrain>'")
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    programs = {"train.py": 2, "scripts/study.py": 2, "scripts/bootstrap.py": 3, "scripts/evaluate.py": 2}
    if words[1] not in programs or (words[1] == "scripts/bootstrap.py" and words[2:3] != ["train"]):
        return None
    words = [re.sub("<.*?>", "folder", word) for word in words[programs[words[1]] :]]
    if any(word.startswith("--") for word in words if not word.startswith(("--quick", "--table"))):
        return None
    own = tuple(f"{key}=" for key in OWN_KEYS) if "evaluate" in command else ()
    return [word for word in words if word not in ("-m", "--quick", "--table") and not word.startswith(own)]


def jobs_of(command: str) -> list[tuple[str, ...]]:
    """The sets of overrides that show every value of a sweep once: the first values, and each other one beside them."""
    given = overrides_of(command) or []
    values = [[word] if "[" in word else word.split(",") for word in given]
    values = [[first, *(f"{first.partition('=')[0]}={other}" for other in others)] for first, *others in values]
    return [tuple(some[min(i, len(some) - 1)] for some in values) for i in range(max(map(len, values), default=1))]


ALL_JOBS = {job for command in COMMANDS for job in jobs_of(command)}
JOBS = sorted(job for job in ALL_JOBS if not any(set(job) < set(other) for other in ALL_JOBS))


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_a_command_composes(job: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for override in job:
        skip_without_plugin(override)
    if "backbone.weights=folder" in job:
        monkeypatch.chdir(write_whisper(tmp_path / "folder").parent)
    assert compose(job, STUDIES if STUDIES.is_dir() else None).model.name


@pytest.mark.parametrize("script", sorted({name for c in COMMANDS for name in re.findall(r" scripts/(\w+\.py)", c)}))
def test_a_script_has_the_options_of_its_commands(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [script, "--help"])
    code: object = None
    try:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    except SystemExit as end:  # of argparse
        code = end.code
    assert not code
    text = capsys.readouterr().out
    own = " ".join(command for command in COMMANDS if f" scripts/{script}" in command)
    options = {option for option in re.findall(r" (--[\w-]+|beside=)", own) if script != "bootstrap.py"}
    assert [option for option in sorted(options) if option not in text] == []


# ----------------------------------------------------------------------------------------------------------- snippets


def test_every_python_and_yaml_block_is_a_snippet_under_a_name() -> None:
    blocks = [
        text
        for page in PAGES
        for language, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if language in ("python", "yaml")
    ]
    assert sorted(blocks) == sorted(snippet.text for snippet in snippets())
    names = [(snippet.name, snippet.file) for snippet in snippets()]
    assert len(set(names)) == len(names) > 5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EXTENSIONS])
def test_a_snippet_runs(name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tone(tmp_path / "clip.wav", 700.0, 0.2)
    monkeypatch.chdir(tmp_path)
    for file, text in files_of(name).items():
        (tmp_path / file).write_text(text.replace("outputs/<run>", str(trained)), encoding="utf-8")
        runpy.run_path(str(tmp_path / file), run_name="__main__")


def test_the_snippet_of_many_files_names_the_one_that_is_missing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test_a_snippet_runs("predict/many", trained, tmp_path, monkeypatch)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1] in ("high", "low", "middle")
    assert second.startswith("missing.wav Audio file missing.wav")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in AS_IN_TEST_OPEN)) for name in EXTENSIONS]
)
def test_an_extension_outside_of_the_package_is_trained_and_reported(
    name: str, tones: Path, tmp_path: Path, command: Command, pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {}
    for file, text in files_of(name).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
        if file.startswith("conf/"):
            chosen[Path(file).parent.name] = Path(file).stem
    monkeypatch.syspath_prepend(str(tmp_path))
    given = [f"--config-dir={tmp_path / 'conf'}", *TINY_MODEL, *TINY_RUN, "hydra.run.dir=run"]
    given += [f"{group}={choice}" for group, choice in chosen.items()]
    if "data" in chosen:
        given += [f"data.root={write_lists(tones)}", "data.sample_rate=8000", "data.batch_size=4"]
    else:
        given += tiny_folder(tones)
    ended = command(*given)
    assert ended.code == 0, ended.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["model"] == chosen.get("model", "learned_skip")
    assert len((tmp_path / "run" / "report" / "clips.csv").read_text().splitlines()) == 1 + 3
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def write_lists(tones: Path) -> Path:
    """List the tones by split, as the guide's source reads them: of each class one for validation, one for test."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for folder in sorted(path for path in tones.iterdir() if path.is_dir()):
        for i, path in enumerate(sorted(folder.iterdir())):
            lists[{0: "test", 1: "val"}.get(i, "train")].append(str(path.relative_to(tones)))
    for split, names in lists.items():
        (tones / f"{split}.txt").write_text("\n".join(names))
    return tones


# ---------------------------------------------------------------------------------------------------------- reference


def test_every_old_name_is_listed_with_its_new_one() -> None:
    text = (DOCS / "reference" / "renamed.md").read_text(encoding="utf-8").partition("Packages and words")[0]
    listed = dict(re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", text, re.MULTILINE))
    assert listed == importlib.import_module("hopscotch.config.errors").RENAMED


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch):
    """Import one of the extensions of docs/_ext."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module


def flat_keys(node: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        if key != "defaults":
            keys.append(f"{prefix}{key}")
            keys += flat_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return keys


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_the_reference_has_every_key_and_comment_of_a_file(extension, file: Path) -> None:
    reference = extension("config_reference")
    source = file.read_text(encoding="utf-8")
    keys = reference.keys_of(source)
    assert [key.name.rstrip(".") for key in keys] == flat_keys(yaml.safe_load(source) or {})
    told = " ".join([reference.purpose(source), *(key.comment for key in keys)])
    comments = [line.strip().removeprefix("#").strip() for line in source.splitlines() if line.startswith("#")]
    assert [comment for comment in comments if "@package" not in comment and comment not in told] == []
    behind = re.findall(r"^\s*[\w.]+:[^#\n]* #\s*(.+)$", source.partition("defaults:")[0] or source, re.MULTILINE)
    assert [comment for comment in behind if comment.strip() not in told] == []


def test_the_reference_is_made_of_any_group_key_default_and_comment(extension, tmp_path: Path) -> None:
    reference = extension("config_reference")
    conf, pages = tmp_path / "conf", tmp_path / "pages"
    (conf / "fruit" / "parts").mkdir(parents=True)
    (conf / "config.yaml").write_text("# All\ndefaults:\n  - fruit: pear\n\nseed: 0 # of everything\n")
    (conf / "fruit" / "pear.yaml").write_text(
        "# A pear\ndefaults:\n  - parts/core@_here_\n  - _self_\n\n"
        "# how many\nnum_seeds: [1, 2]\nskin:\n  width: 0.5 # mm\n"
    )
    (conf / "fruit" / "parts" / "core.yaml").write_text("# Shared\nripe: true\n")
    pages.mkdir()
    (pages / "gone.md").write_text("of a group that went")
    reference.write_pages(conf, pages)
    assert sorted(page.name for page in pages.iterdir()) == ["fruit.md", "index.md", "run.md"]
    text = (pages / "fruit.md").read_text()
    for part in (
        "## `fruit=pear`",
        "A pear",
        "Builds on: `parts/core@_here_`.",
        "| `fruit.num_seeds` | `[1, 2]` | how many |",
        "| `fruit.skin.width` | `0.5` | mm |",
        "| `fruit.ripe` | `true` |  |",
    ):
        assert part in text
    assert "| `seed` | `0` | of everything |" in (pages / "run.md").read_text()


def test_the_reference_of_the_package_has_every_public_module(extension, tmp_path: Path) -> None:
    api = extension("api_reference")
    source = tmp_path / "house"
    for file in ("__init__.py", "types.py", "report/page.py", "layers/gate.py", "layers/_inner.py"):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).touch()
    api.write_pages(source, tmp_path / "pages")
    assert sorted(page.name for page in (tmp_path / "pages").iterdir()) == ["index.md", "layers.md", "types.md"]
    text = (tmp_path / "pages" / "layers.md").read_text()
    assert re.findall("automodule:: (.*)", text) == ["house.layers.gate"]


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("`x` and `y`s, *no* stars", r"``x`` and ``y``\ s, \*no\* stars"),
        ("ends in an underscore_ and |bars|", r"ends in an underscore\_ and \|bars\|"),
        ("The rule.\n\n    a * b\n\nAfter.", "The rule.\n\n::\n\n    a * b\n\nAfter."),
        ("Args:\n    x: the `input` * 2", "Args:\n    x: the ``input`` \\* 2"),
    ],
)
def test_a_docstring_of_plain_text_is_shown_as_it_stands(extension, plain: str, shown: str) -> None:
    lines = plain.split("\n")
    extension("api_reference").plain_text(types.SimpleNamespace(), "module", "m", None, None, lines)
    assert [line for line in lines if line] == [line for line in shown.split("\n") if line]


def test_pages_name_only_verbs_that_there_are() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    verbs = set(re.findall(r"(?:^|[`(])hopscotch ([a-z]+)", text, re.MULTILINE))
    assert {"train", "predict", "doctor"} <= verbs <= set(VERBS)
