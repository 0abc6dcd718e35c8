"""Where caches live, and what a full or read-only disk says."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from captioner.files import atomic_path

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the folder may not be written",
    errno.EPERM: "the folder may not be written",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "part of the path is a file",
    errno.EEXIST: "part of the path is a file",
}


def default_cache_dir() -> Path:
    """The folder of caches, unless an argument moves it."""
    return Path.home() / ".cache" / "captioner"


@contextlib.contextmanager
def explained_disk_errors(folder: Path, argument: str) -> Iterator[None]:
    """Explains an OSError of the block: the folder or file, the reason, and the argument that chooses another folder."""
    try:
        yield
    except OSError as error:
        # NumPy reports a full disk as "N requested and M written", without a number.
        number = error.errno or (errno.ENOSPC if "requested and" in str(error) else None)
        if number not in _REASONS:
            raise
        message = f"cannot write to {folder}: {_REASONS[number]}. Choose another folder with `{argument}`"
        raise OSError(number, message) from error


@contextlib.contextmanager
def run_file(path: str | os.PathLike) -> Iterator[Path]:
    """`atomic_path` for a file or folder of a run, with its OSError explained."""
    path = Path(path)
    with explained_disk_errors(path, "run_dir"), atomic_path(path) as temporary:
        yield temporary


def require_free_space(folder: Path, num_bytes: int, argument: str) -> None:
    """Raises OSError if the disk of `folder` has less than `num_bytes` left."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs {num_bytes / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB left. "
            f"Free some, or choose another folder with `{argument}`",
        )
