"""Know before training which numbers a checkpoint, early stopping or a schedule can follow."""

from collections.abc import Iterable

from omegaconf import DictConfig, OmegaConf

from hopscotch.config.errors import wrong_value

KNOWN = ("hopscotch.", "lightning.", "scripts.", "torch.")  # packages whose callbacks log nothing that can be monitored
AFTER_TRAINING = ("check_on_train_epoch_end", "save_on_train_epoch_end")  # keys that have the numbers of training wait


def tags(metrics: Iterable[str]) -> list[str]:
    """List what a task with these metrics logs of each validation and each epoch of training."""
    names = ("loss", *metrics, "compute_fraction", "macs")
    return [f"{split}/{name}" for split in ("val", "train") for name in names]


LOGGED = {  # known without an import
    "hopscotch.training.classify.ClassificationTask": tags(["acc", "f1"]),
    "hopscotch.training.detect.DetectionTask": tags(["miss_2", "miss_05", "event_f1", "segment_f1"]),
    "hopscotch.training.regress.RegressionTask": tags(["mae", "rmse", "pearson"]),
    "hopscotch.training.tag.TaggingTask": tags(["map", "auc", "f1"]),
}

OF_DETECTION = "val/miss_2"  # `val/loss` has a constant for each event in a closed span, and keeps what opens most


def usual(task: str) -> str:
    """Return what the best checkpoint, early stopping and a schedule follow unless told; the lower the better."""
    return OF_DETECTION if task == "hopscotch.training.detect.DetectionTask" else "val/loss"


def refuse_unlogged(cfg: DictConfig, logged: Iterable[str]) -> None:
    """Refuse a monitor that is not `logged` when it is looked at, unless a callback of the user's own may log it."""
    nodes = {f"callbacks.{name}": node for name, node in cfg.callbacks.items() if node is not None}
    if any(not str(node.get("_target_")).startswith(KNOWN) for node in nodes.values()):
        return
    for path, node in {**nodes, "scheduler": OmegaConf.select(cfg, "scheduler") or {}}.items():
        waits = any(node.get(key) for key in AFTER_TRAINING)
        there = [tag for tag in logged if waits or tag.startswith("val/") or tag == "train/loss"]
        if (monitor := node.get("monitor")) is not None and monitor not in there:
            raise wrong_value(f"{path}.monitor", f"one of {', '.join(there)}", monitor, there)
