"""Files that are either whole or absent: written under a temporary name, then renamed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary sibling of `path` that takes its name when the block ends without an error.

    The block may write a file or a folder there. An existing file is replaced in one step; an existing folder
    is moved aside first and removed last. After an error, Ctrl-C included, `path` is what it was.

    Args:
        path: path. Where the result shall be; its parent folder is created.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    if path.is_symlink() and path.is_dir():  # the link stays, and the folder that it names is replaced
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays, because many writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
            path.rename(aside)
            try:
                temporary.rename(path)
            except BaseException:
                if not path.exists():
                    aside.rename(path)
                raise
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
