"""Find the files of a folder that may be clips; what other programs leave there is passed over."""

import os
import unicodedata
from pathlib import Path
from typing import NoReturn

from hopscotch.data.audio import printable

# Suffixes of files in a class folder that are not clips.
OTHER_SUFFIXES = {".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".lab", ".textgrid", ".png", ".jpg", ".pdf"}
OTHER_SUFFIXES |= {".jsonl", ".aup", ".aup3"}  # annotations, and projects of Audacity

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".webm"}


def clip_name(path: Path, root: Path) -> str:
    """Name a file as seen from the data's root, the same on every system: in NFC, with `/`."""
    text, head = str(path), os.path.join(root, "")
    is_below = text.startswith(head) and ".." not in text  # which is told in a tenth of the time of relpath
    return nfc(printable(text[len(head) :] if is_below else os.path.relpath(path, root)).replace(os.sep, "/"))


def file_at(root: Path, name: str) -> Path:
    """Find a file that a table names, also where the disk has its accents in the other form."""
    path = root / name
    if name.isascii() or path.exists():
        return path
    others = (root / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return next((other for other in others if other.exists()), path)


def nfc(text: str) -> str:
    """Compose letters and their accents, which some systems store apart."""
    return unicodedata.normalize("NFC", text)


def files_in(folder: Path) -> list[Path]:
    """List the files directly in the folder that may be clips."""
    return [path for path in listed(folder) if may_be_clip(path.name) and path.is_file()]


def may_be_clip(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() not in OTHER_SUFFIXES


def audio_files(folder: Path) -> list[Path]:
    """List every file below the folder that may be a clip; libsndfile decides, not the suffix.

    Links to folders are followed, each folder once. An empty folder with the name of a file is listed, to be named.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unlisted):
        below, folders[:] = sorted((name for name in folders if not name.startswith(".")), key=nfc), []
        for name in below:
            place = os.path.realpath(os.path.join(parent, name))
            if place not in seen:
                seen.add(place)
                folders.append(name)
        found += [Path(parent, name) for name in sorted(names, key=nfc) if may_be_clip(name)]
        if not names and not below and Path(parent) != folder and Path(parent).suffix.lower() in AUDIO_SUFFIXES:
            found.append(Path(parent))
    return found


def listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: nfc(path.name))
    except OSError as error:
        _refuse_unlisted(error)


def _refuse_unlisted(error: OSError) -> NoReturn:
    raise ValueError(f"Folder {printable(Path(error.filename))}: cannot be listed ({error.strerror}).") from None
