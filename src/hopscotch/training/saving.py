"""Write what Lightning saves in a thread: training waits until it is copied, not until it is written.

One state at most is on its way; until it is there the one before it stands under its name.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from hopscotch.training.whole import content_of, copy_whole, hash_file, not_finite, snapshot, write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Write what Lightning saves, in a thread; a checkpoint with weights that are not finite is refused."""

    def __init__(self, *, waits: bool = False) -> None:
        """Write while training goes on, or with `waits` before it does."""
        self.waits = waits
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._pending: list[Future[None]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        copied = snapshot(checkpoint)  # each number is looked at in the copy, on the CPU
        if wrong := next(not_finite(copied), None):
            raise ValueError(
                f"The weights must stay finite, {wrong} is not at step {checkpoint.get('global_step')}: nothing is "
                "kept of them. Try a lower optimizer.lr."
            )
        self._write(lambda: write_whole(content_of(copied), Path(path)))

    def copy(self, path: Path, to: Path) -> None:
        """Copy a checkpoint that was saved before."""
        self._write(copy_whole, path, to, of_the_last=True)

    def remove_checkpoint(self, path: Any) -> None:
        self.wait()
        super().remove_checkpoint(path)
        hash_file(Path(path)).unlink(missing_ok=True)

    def wait(self) -> None:
        """Wait until all is written; raise what went wrong."""
        pending, self._pending = self._pending, []
        for one in pending:
            one.result()

    def _write(self, write: Callable[..., None], *what: Any, of_the_last: bool = False) -> None:
        if not of_the_last:
            self.wait()
        self._pending.append(self._thread.submit(write, *what))
        if self.waits:
            self.wait()
