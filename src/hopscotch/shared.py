"""Write a trained model as a folder of data alone, to be sent to others, and read such a folder.

config.json           how to build the model; its classes; how long clips were. No path of the run's machine
weights.safetensors   parameters and buffers, in a format that cannot hold code
manifest.json         name of the format, and a SHA-256 of each of the two
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import OmegaConf

from hopscotch import __version__
from hopscotch.config.errors import plain_config
from hopscotch.files import write_file
from hopscotch.plain import as_written, read_json, shown
from hopscotch.registry import NEVER_BUILT, check_stored
from hopscotch.restore import Restored, build_stored_model, no_larger_than, restore
from hopscotch.training.calibration import Budget, is_table
from hopscotch.training.checkpoint import BUDGETS, check_classes, check_seconds, take_weights

CONFIG, WEIGHTS, MANIFEST = "config.json", "weights.safetensors", "manifest.json"
FORMAT, ONNX, VERSION = "hopscotch model", "hopscotch onnx", 1  # the second is that of ship/export.py
OF_THE_RUN = (*NEVER_BUILT, "run_dir", "resume", "resume_anyway", "ckpt_path", "init_from", "backbone", "seed")
OF_THE_DATA = ("_target_", "sample_rate")  # all that a model needs to know of its data


def is_shared(folder: Path) -> bool:
    """Tell whether a folder is such a model, and not a run."""
    return (folder / MANIFEST).is_file()


def has_graphs(folder: Path) -> bool:
    """Tell whether a folder is a model as graphs of ONNX."""
    return is_shared(folder) and read_json(folder / MANIFEST).get("format") == ONNX


def export(run: Path, out: Path, ckpt: Path | None = None, trust: Sequence[str] = ()) -> Path:
    """Write the model of a run's best checkpoint, or of `ckpt`, to the new folder `out`.

    Raises:
        ValueError: If `out` is there already, or the run cannot be restored.
    """
    from safetensors.torch import save_file

    if out.exists() or out.is_symlink():
        raise ValueError(f"out must be a new folder, got {shown(out)}, which is there already.")
    restored = restore(run, ckpt, trust)
    config = {key: value for key, value in plain_config(restored.cfg).items() if key not in OF_THE_RUN}
    config["compute"] |= {"teacher": None}
    config["data"] = {key: config["data"][key] for key in OF_THE_DATA}
    seconds = {"mean": restored.mean_seconds, "longest": restored.longest_seconds}
    content = {"config": config, "classes": restored.classes, "clip_seconds": seconds, BUDGETS: restored.budgets}
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}_") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        write_file(folder / CONFIG, json.dumps(content, indent=2, allow_nan=False) + "\n")
        weights = {name: tensor.clone().contiguous() for name, tensor in restored.model.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "hopscotch": __version__,
            "files": {name: hash_of(folder / name) for name in (CONFIG, WEIGHTS)},
        }
        write_file(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        os.replace(folder, out)
    return out


def read_shared(folder: Path, trust: Sequence[str] = ()) -> Restored:
    """Read a model that `export` wrote. It may come from a stranger: classes other than ours are refused.

    Raises:
        ValueError: If a file was changed or cut, or names or holds what it must not.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_manifest(folder)
    path, weights = folder / CONFIG, folder / WEIGHTS
    content = read_json(path)
    config, seconds = (content.get(key) for key in ("config", "clip_seconds"))
    if not isinstance(config, Mapping):
        raise ValueError(f"{shown(path)} must have a map at config.")
    check_stored(config, shown(path), trust)
    classes = check_classes(content.get("classes"), shown(path))
    mean, longest = check_seconds(seconds, shown(path)) if seconds != {"mean": None, "longest": None} else (None, None)
    if not is_table(table := content.get(BUDGETS, [])) and table:
        raise ValueError(f"{shown(path)} must have rising biases and fractions as {BUDGETS}, it has not.")
    cfg = OmegaConf.create(dict(config))
    with as_written(folder), no_larger_than(weights):
        model = build_stored_model(cfg, len(classes), path, trust)
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError, ValueError):
        raise ValueError(f"{shown(weights)} must be a file of safetensors, it is none.") from None
    take_weights(model, tensors, weights, "weights")
    return Restored(cfg, model.eval(), classes, mean, longest, [Budget(*row) for row in table])


def check_manifest(folder: Path) -> None:
    """Refuse a folder whose files are not those that its manifest names."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ValueError(f"{shown(path)} must have format={FORMAT!r} and version={VERSION}, it has not.")
    files = manifest.get("files")
    if not isinstance(files, Mapping) or set(files) != {CONFIG, WEIGHTS}:
        raise ValueError(f"{shown(path)} must name {CONFIG} and {WEIGHTS} as files, it does not.")
    for name, wanted in files.items():
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise ValueError(f"{shown(folder / name)} must be a file, and no link.")
        if hash_of(folder / name) != wanted:
            raise ValueError(f"{shown(folder / name)} must be as {MANIFEST} says: it was changed or cut.")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
