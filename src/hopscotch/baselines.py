"""Train the static baselines of a run, each alone: stacks of fewer layers, or narrower models where widths answer.

Data, seed, optimizer, epochs and all else are those of the run. Each is a run in a folder of its own,
<run>/against/<name>, trained by a process of its own: what has finished is not trained again, what was cut short goes
on. Further static models that are put there, by hydra.run.dir=<run>/against/<name>, are compared too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from hopscotch.config.compose import compose
from hopscotch.config.errors import plain_config
from hopscotch.config.typed import Again, escaped, is_made_of, quoted
from hopscotch.files import refuse_links
from hopscotch.jobs import Job, Jobs
from hopscotch.models.assemble import narrowed
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.cascade import Cascade
from hopscotch.models.exits import EarlyExit
from hopscotch.models.names import BLOCK, common
from hopscotch.models.slimmable import Slimmable
from hopscotch.plain import shown
from hopscotch.report.records import logged_error
from hopscotch.report.run_folder import CONFIG, RunFolder
from hopscotch.resume import goes_on
from hopscotch.system import lock

FOLDER = "against"  # of a run's folder
MOST = 6  # depths
MOST_DROP = 0.9  # of the last layer
# Of the configuration of the run's model; what decides is not among them.
KEPT = (
    *("heads", "dim", "ffn_ratio", "dropout", "convolution_width", "stem_stride", "stem_channels", "positions"),
    *("pooling", "residual_init_scale"),
)
WITHOUT = {"stem_layers": 0, "open_rate": None, "stage": None, "exits": None, "widths": None}
OF_DECISIONS = ("model", "compute", "baseline")  # groups of words that a static model is not given


def baselines_of(model: AudioModel, cfg: DictConfig, drop: float = 0.0) -> dict[str, dict[str, Any]]:
    """Name the static models that a run is to be compared with, each with its own keys, the cheapest first.

    With `drop` the deepest one is there a second time, trained with so much stochastic depth.
    """
    own = plain_config(cfg)["model"]
    kept = {key: own[key] for key in KEPT} | WITHOUT
    if isinstance(model, Cascade):
        return {}  # its stages are: they were trained alone
    if isinstance(model, Slimmable):
        narrow = {f"width_{share:g}": narrowed(own, share) for share in own["widths"]["shares"]}
        found = {name: kept | sizes | strided(own, own["depth"]) for name, sizes in narrow.items()}
        return {name: typed_keys(keys, cfg) | {"init_from": None} for name, keys in found.items()}  # of another width
    depths = list(range(1, own["depth"] + 1))
    if isinstance(model, EarlyExit):  # whose exit behind the stem stands beside a stem alone
        depths = [own["stem_layers"] + layers for layers in model.layers]
    depths = sorted({1, *depths})
    if len(depths) > MOST:
        depths = [depths[place] for place in np.linspace(0, len(depths) - 1, MOST).round().astype(int)]
    cut = {f"depth_{depth}": kept | strided(own, depth) for depth in depths}
    dropped = {name: keys | {"encoder.drop": drop} for name, keys in [*cut.items()][-1:] if drop}
    found = cut | {f"{name}_dropped": keys for name, keys in dropped.items()}
    return {name: typed_keys(keys, cfg) for name, keys in found.items()}


def typed_keys(keys: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """Write keys of the group `model` in full; of what the run has frozen, with the parts that such a stack has."""
    found = {f"model.{key}": value for key, value in keys.items()}
    if frozen := list(cfg.trainer.freeze):
        found["trainer.freeze"] = [*parts_in(frozen, keys["depth"], cfg.model.stem_layers)]
    return found


def parts_in(parts: Sequence[str], depth: int, stem_layers: int) -> Iterator[str]:
    """Yield those of a model's parts that a stack of so many layers has, by their names there."""
    for part in parts:
        name = common(part, stem_layers)
        if name == "stem_layers":
            yield from (f"encoder.blocks.{layer}" for layer in range(min(stem_layers, depth)))
        elif layer := BLOCK.match(name):
            yield from [name] * (int(layer[1]) < depth)
        elif name == "encoder":
            yield from [name] * (depth > 0)
        elif name.partition(".")[0] in ("stem", "head"):
            yield name


def drop_of(model: AudioModel, share: float) -> float:
    """Return the stochastic depth that skips as much in training as exits, or as routes that run a share of layers."""
    if isinstance(model, EarlyExit):
        return model.drop
    return min(MOST_DROP, round(2 * (1 - share), 2)) if "layers" in model.skips else 0.0


def strided(own: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return the depth, and the fixed strides of a stack cut to it; where strides are chosen, they are 1."""
    encoder = own["encoder"]
    rest = encoder.get("strides") or [max(1, encoder.get("first", 1) - layer) for layer in range(own["depth"])]
    return {"depth": depth, "encoder.strides": [*[1] * own["stem_layers"], *rest][:depth]}


def words_of(run: Path, trust: Sequence[str] = ()) -> list[str]:
    """List what was typed for a run that its static baselines are trained with too, held to its configuration.

    Raises:
        ValueError: If the words come to another configuration today, or name what a run must not.
    """
    again = Again([f"again={run}", *(f"trust={module}" for module in trust)])
    words = again.words()
    again.check(compose(words))
    return [word for word in words if word.lstrip("+~").partition("=")[0].split(".")[0] not in OF_DECISIONS]


def train_baselines(
    run: Path, named: Mapping[str, Mapping[str, Any]], trust: Sequence[str] = (), more: Sequence[str] = ()
) -> None:
    """Train those of the static models that have not finished, one after the other; `more` are words for all.

    Raises:
        ValueError: If one fails, or a folder has a run of other words, or another process is at it.
    """
    folder = run.absolute() / FOLDER
    refuse_links(run, [FOLDER, *(f"{FOLDER}/{name}" for name in named)])
    if not named:
        return
    words = [*words_of(run, trust), *more]
    wanted = {folder / name: [*words, *typed(name, keys)] for name, keys in named.items()}
    for place, words in wanted.items():
        before = RunFolder(place).overrides if (place / CONFIG).is_file() else []
        if before and not is_made_of(before, words):
            raise ValueError(f"{shown(place)} must have a run of the words of {shown(run)}: it has others, remove it.")
    folder.mkdir(exist_ok=True)
    with lock(folder, "is where another process trains baselines: wait for it, or stop it"):
        jobs = Jobs(1, logs=True)
        for ended in jobs.run(unfinished(wanted)):
            name, log = ended.job.folder.name, Path(f"{ended.job.folder}.log")
            if jobs.number is not None:
                raise SystemExit(128 + jobs.number)
            if ended.code:
                raise ValueError(f"{name} failed, {ended.reason}: {logged_error(log)} ({shown(log)} has more)")
            print(f"trained {name} in {ended.seconds:.0f} s", flush=True)


def typed(name: str, keys: Mapping[str, Any]) -> list[str]:
    """Write the keys of a static model as words."""
    return ["model=dense", *(f"{key}={json.dumps(value)}" for key, value in keys.items()), f"model.name={name}"]


def unfinished(wanted: Mapping[Path, Sequence[str]]) -> Iterator[Job]:
    """Yield the jobs of the runs that have not finished, and say what is done."""
    for number, (place, words) in enumerate(wanted.items(), start=1):
        what = f"{place.name} ({number} of {len(wanted)})"
        if RunFolder(place).status == "finished":
            print(f"{what} has finished before", flush=True)
            continue
        if place.is_dir() and goes_on(place):
            words = [f"resume={place}"]
        else:
            words = [*words, "hydra.mode=RUN", f"hydra.run.dir={quoted(escaped(str(place)))}"]
        print(f"training {what}; {place}.log has what it says", flush=True)
        yield Job(place, [*words, "trainer.enable_progress_bar=false"])


def statics_in(run: Path) -> list[Path]:
    """List the static models in a run's folder that have finished."""
    folder = run / FOLDER
    found = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    return [path for path in found if RunFolder(path).status == "finished"]
