"""Know before training which numbers a checkpoint, early stopping or a schedule can follow."""

from collections.abc import Iterable

from omegaconf import DictConfig

from hopscotch.config.errors import wrong_value

METRICS = {"hopscotch.training.classify.ClassificationTask": ("acc", "macro_f1")}  # of tasks that are known by name
KNOWN = ("hopscotch.", "lightning.", "scripts.", "torch.")  # packages whose callbacks log nothing to be monitored


def tags(metrics: Iterable[str]) -> list[str]:
    """List what a task with these metrics logs once an epoch."""
    names = ("loss", *metrics, "compute_fraction", "macs")
    return [f"{split}/{name}" for split in ("val", "train") for name in names]


def refuse_unlogged(cfg: DictConfig, logged: Iterable[str]) -> None:
    """Refuse a monitor that is not `logged`, unless a callback of the user's own is there, which may log it."""
    nodes = {f"callbacks.{name}": node for name, node in cfg.callbacks.items() if node is not None}
    if any(not str(node.get("_target_")).startswith(KNOWN) for node in nodes.values()):
        return
    for path, node in {**nodes, "scheduler": cfg.scheduler}.items():
        if (monitor := node.get("monitor")) is not None and monitor not in logged:
            raise wrong_value(f"{path}.monitor", f"one of {', '.join(logged)}", monitor, logged)
