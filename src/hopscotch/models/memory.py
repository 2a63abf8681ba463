"""Remember what the heads of a frozen encoder read of a clip, so that its layers run once, and heads train in seconds.

A clip is known by a hash of its samples, so that nothing else has to say which one it is. What is kept is enough for a
head whose norm and linear layer still learn (layers/pooling.py): four rows an exit, a few kilobytes a clip.

A file holds it for the next run; its name is a hash of the weights and of how they are used. It is written beside its
place and moved there when it is whole, with what another run has put there in the meantime.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hopscotch.types import Lengths

SUFFIX, UNFINISHED = ".states", ".part"
KEY_BYTES = 16
GIB = 2**30


class Memory:
    """Hold a row of `size` numbers for each clip: in memory up to `gib`, and in the file `place` if there is one."""

    def __init__(self, size: int, gib: float, place: Path | None) -> None:
        self.size, self.most, self.place = size, int(gib * GIB / (4 * size)), place
        self.rows = {} if place is None else read_states(place, size)
        self.is_new = False

    def recall(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Lengths,
        compute: Callable[[Tensor, Lengths], Float[Tensor, "batch size"]],
    ) -> Float[Tensor, "batch size"]:
        """Return the rows of a batch; those of clips that are not known are computed."""
        keys = [key_of(clip[:length]) for clip, length in zip(waveform.cpu(), lengths.tolist(), strict=True)]
        if unknown := [place for place, key in enumerate(keys) if key not in self.rows]:
            here = torch.tensor(unknown, device=waveform.device)
            sizes = lengths[here]
            found = compute(waveform[here, : int(sizes.max())], sizes).float().cpu()
            if len(self.rows) + len(unknown) > self.most:
                return self._mixed(keys, unknown, found).to(waveform.device)
            self.is_new = True
            self.rows.update(zip((keys[place] for place in unknown), found, strict=True))
        return torch.stack([self.rows[key] for key in keys]).to(waveform.device)

    def _mixed(self, keys: list[bytes], unknown: list[int], found: Tensor) -> Tensor:
        known = dict(zip(unknown, found, strict=True))
        return torch.stack([known[place] if place in known else self.rows[key] for place, key in enumerate(keys)])

    def save(self, gib: float) -> None:
        """Write what is new to the file, and remove what was used longest ago beyond `gib` of its folder.

        Raises:
            OSError: If there is no room, or no right to write.
        """
        if self.place is None or not self.is_new:
            return
        from safetensors.torch import save_file

        rows = {**read_states(self.place, self.size), **self.rows}
        keys = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, KEY_BYTES)
        self.place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.place.parent, suffix=UNFINISHED)
        os.close(handle)
        try:
            save_file({"keys": keys, "states": torch.stack(list(rows.values()))}, name)
            os.replace(name, self.place)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
        self.is_new = False
        _make_room(self.place.parent, gib)


def key_of(clip: Float[Tensor, " sample"]) -> bytes:
    """Return a hash of samples."""
    return hashlib.blake2b(clip.contiguous().numpy().tobytes(), digest_size=KEY_BYTES).digest()


def read_states(place: Path, size: int) -> dict[bytes, Float[Tensor, " size"]]:
    """Read rows by their keys; none from a file that is not there, or is not as `Memory.save` writes it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(place)
        os.utime(place)
        keys, states = found["keys"], found["states"]
    except (SafetensorError, OSError, ValueError, KeyError):
        return {}
    is_whole = keys.shape == (len(states), KEY_BYTES) and states.shape == (len(states), size)
    if not is_whole or keys.dtype != torch.uint8 or states.dtype != torch.float32 or not states.isfinite().all():
        return {}
    return dict(zip((row.tobytes() for row in keys.numpy()), states, strict=True))


def _make_room(folder: Path, gib: float) -> None:
    total = 0.0
    with suppress(OSError):
        found = [(place.stat(), place) for place in folder.glob(f"*{SUFFIX}")]
        for stat, place in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
            total += stat.st_size
            if total > gib * GIB:
                place.unlink()
