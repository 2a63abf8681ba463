"""Deal clips into training, validation and test, or into folds, by a hash of their names.

A unit, which is a clip or a group of them such as a speaker, gets a number in [0, 1) that is the hash of its name: its
place. Parts are intervals of places. So a unit stays where it is when others are added, renamed or removed, and every
class is split in the same shares, as far as chance has it. Where a class is so rare that a part has none of it, the
part is given one unit of it, of the lowest place; this alone depends on what else there is, and training comes first.
"""

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate

from hopscotch.data.datamodule import Split

TEST, TRAIN, VAL = 0, 1, 2  # in the order of their places: either share may change without a move between val and test
PARTS: tuple[Split, ...] = ("test", "train", "val")


def place(name: str) -> float:
    """Hash a name to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def deal(units: Mapping[str, frozenset[str]], shares: Sequence[float], first: Sequence[int]) -> dict[str, int]:
    """Deal units into parts.

    Args:
        units: name -> its classes.
        shares: of the parts, which sum to 1.
        first: the parts, the one that most needs a unit of each class first.

    Returns:
        Name -> part.
    """
    edges = list(accumulate(shares))[:-1]
    part = {unit: bisect_right(edges, place(unit)) for unit in units}
    holders: dict[str, list[str]] = defaultdict(list)
    for unit in sorted(units, key=place):
        for label in units[unit]:
            holders[label].append(unit)
    counts = Counter((part[unit], label) for unit, labels in units.items() for label in labels)
    for rank, lacking in enumerate(first):
        later = first[rank + 1 :]
        for label in sorted(holders):
            if counts[lacking, label]:
                continue
            givers = [
                unit
                for unit in holders[label]
                if all(part[unit] in later or counts[part[unit], other] > 1 for other in units[unit])
            ]
            if givers:
                given = max(givers, key=lambda unit: counts[part[unit], label])  # of equals the first
                counts.subtract((part[given], other) for other in units[given])
                counts.update((lacking, other) for other in units[given])
                part[given] = lacking
    return part


def into_splits(units: Mapping[str, frozenset[str]], val: float, test: float) -> dict[str, Split]:
    """Deal units into splits, of these shares and the rest for training."""
    first = (TRAIN, TEST, VAL) if test else (TRAIN, VAL)
    if len(units) < len(first):
        raise ValueError(f"data: a split needs at least {len(first)} clips or groups, got {', '.join(sorted(units))}.")
    return {unit: PARTS[part] for unit, part in deal(units, (test, 1 - val - test, val), first).items()}


def into_folds(units: Mapping[str, frozenset[str]], folds: int) -> dict[str, str]:
    """Deal units into folds of equal shares, named 1, 2, ..."""
    parts = deal(units, [1 / folds] * folds, range(folds))
    return {unit: str(part + 1) for unit, part in parts.items()}


def by_fold(folds: Sequence[str], fold: str, val_fold: int | str | None = None) -> list[Split]:
    """Test on one fold, validate on `val_fold` or the next, train on the others; `folds` has the one of each clip."""
    names = sorted(set(folds), key=lambda name: (len(name), name) if name.isdecimal() else (0, name))
    known = ", ".join(names)
    if fold not in names:
        raise ValueError(f"data.fold must be one of {known}, got {fold}.")
    if len(names) < len(PARTS):
        raise ValueError(f"data.fold: test, validation and training need at least 3 folds, got {known}.")
    following = names[(names.index(fold) + 1) % len(names)] if val_fold is None else str(val_fold)
    if following == fold or following not in names:
        raise ValueError(f"data.val_fold must be one of {known}, and not data.fold={fold}, got {following}.")
    role: dict[str, Split] = {fold: "test", following: "val"}
    return [role.get(name, "train") for name in folds]
