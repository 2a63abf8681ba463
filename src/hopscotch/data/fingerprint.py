"""Know data again: their names, labels, lengths and, of clips drawn by their names, what some of their samples are."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from hopscotch.data.clips import Clip, some

MOST_LOOKED_AT = 4096  # clips whose samples are looked at, where they are at hand
MOST_DECODED = 64  # likewise, where each has to be decoded first
PROBE = 64  # samples of a clip, from its middle on
Look = Callable[[Any, int, int, int], Tensor]  # (split, index, start, samples) -> the samples


def fingerprint(clips: Mapping[Any, Sequence[Clip]]) -> str:
    """Hash names, labels and lengths."""
    digest = hashlib.sha256()
    for split, part in clips.items():
        for clip in part:
            digest.update(f"{split}\t{clip.name}\t{_facts(clip)}\n".encode())
    return digest.hexdigest()[:16]


def content(clips: Mapping[Any, Sequence[Clip]], look: Look, most: int) -> Int64[Tensor, "clip 3"]:
    """Hash name, facts and samples of each clip; the samples of `most` at most, drawn by their names."""
    every = 1
    while every * most < sum(map(len, clips.values())):
        every *= 2
    rows = []
    for split, part in clips.items():
        for index, clip in enumerate(part):
            name, facts, probe = _hash(f"{split}\t{clip.name}".encode()), _hash(_facts(clip).encode()), 0
            if name % every == 0:
                start = max(0, (clip.num_samples - PROBE) // 2)
                probe = _hash(look(split, index, start, PROBE)[:PROBE].numpy().tobytes())
            rows.append((name, facts, probe))
    return torch.tensor(rows, dtype=torch.int64).view(-1, 3)


def differences(before: Any, now: Int64[Tensor, "clip 3"], clips: Mapping[Any, Sequence[Clip]]) -> str:
    """Say in words which clips are new, gone or others than before; empty if none are, or if nothing is known."""
    if not isinstance(before, Tensor) or before.dtype != torch.int64 or before.ndim != 2 or before.shape[1] != 3:
        return ""
    known = {name: rest for name, *rest in before.tolist()}
    names = [clip.name for part in clips.values() for clip in part]
    new, other = [], []
    for clip, (name, facts, probe) in zip(names, now.tolist(), strict=True):
        if (found := known.pop(name, None)) is None:
            new.append(clip)
        elif found[0] != facts or (found[1] != probe and found[1] and probe):
            other.append(clip)
    told = {f"new ({some(new)})": len(new), "gone": len(known), f"not as they were ({some(other)})": len(other)}
    counts = [f"{count} {what}" for what, count in told.items() if count]
    return f"of {len(before)} clips {', '.join(counts)}" if counts else ""


def _facts(clip: Clip) -> str:
    part = "" if clip.start is None else f"\t{clip.start}"
    label = clip.label if clip.events is None else [tuple(one) for one in clip.events]
    return f"{label}\t{clip.num_samples}{part}"


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
