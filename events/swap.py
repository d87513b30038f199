"""Replacing a whole folder in one step."""

import ctypes
import os
import shutil
from pathlib import Path

from core.files import sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def replace_folder(new: Path, old: Path) -> None:
    """Puts `new` in the place of `old` and deletes what was there; a reader finds one or the other, whole."""
    Path(new).chmod(0o755)
    if not old.exists():
        new.rename(old)
    else:
        if not _exchange(new, old):
            retired = new.with_name(new.name + ".old")
            old.rename(retired)
            new.rename(old)
            retired.rename(new)
        shutil.rmtree(new)
    sync_folder(old.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Whether the kernel swapped both names atomically; false where system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    code: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return code == 0
