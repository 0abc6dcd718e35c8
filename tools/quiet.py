"""TensorFlow without its start-up chatter on the user's terminal."""

import contextlib
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator


def silence_tensorflow() -> None:
    """Asks TensorFlow, by the environment, to log only fatal errors; what the user has set stays.

    Call before TensorFlow is imported. What C++ logs as an error while it runs also arrives as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for its devices, without a word about drivers, plugins or CPU features.

    Those lines are written by C++ before its log level counts, so the process's standard error is diverted
    meanwhile. After a failure everything that was said is shown. `TF_CPP_MIN_LOG_LEVEL` below 3, set by the
    user, keeps the lines.

    Raises:
        ImportError: If TensorFlow cannot be imported.
    """
    silence_tensorflow()
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "3":
        importlib.import_module("tensorflow").config.list_physical_devices()
        return
    with native_stderr_held_back():
        importlib.import_module("tensorflow").config.list_physical_devices()


@contextlib.contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Keeps file descriptor 2 quiet in the block; shows what was written there only if the block fails."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # started without a standard error
        yield
        return
    with tempfile.TemporaryFile() as held, os.fdopen(saved, "wb") as terminal:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            sys.stderr.flush()
            if isinstance(error, Exception):
                held.seek(0)
                shutil.copyfileobj(held, terminal)
                terminal.flush()
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
