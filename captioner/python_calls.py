"""Python functions in the graph of a tf.data pipeline, which must not keep the process from ending."""

import atexit
import functools
import threading
import time
from collections.abc import Callable

_QUIET_SECONDS = 0.2
"""A pipeline that nobody reads calls nothing any more once its buffers are full: far sooner than this."""

_LIMIT_SECONDS = 20.0
"""Longest wait for a call that goes on."""


class _Calls:
    """What runs now in the threads of TensorFlow."""

    def __init__(self):
        self.lock = threading.Lock()
        self.is_leaving = False
        self.num_running = 0
        self.num_begun = 0

    def begin(self) -> None:
        with self.lock:
            self.num_begun += 1
            if self.is_leaving:
                raise RuntimeError("the process ends")
            self.num_running += 1

    def end(self) -> None:
        with self.lock:
            self.num_running -= 1


_calls = _Calls()


def python_call(function: Callable) -> Callable:
    """The function for `tf.numpy_function`, refused once the process ends.

    A thread that asks for the interpreter when that is being taken down never comes back. An iterator that is still
    alive waits for its threads, so the process would hang: no call may run then.
    """

    @functools.wraps(function)
    def call(*arguments):
        _calls.begin()
        try:
            return function(*arguments)
        finally:
            _calls.end()

    return call


@atexit.register
def _leave() -> None:
    """Waits until no call runs, and none has begun for a while."""
    if _calls.num_begun == 0:
        return
    _calls.is_leaving = True
    deadline, seen = time.monotonic() + _LIMIT_SECONDS, -1
    while (_calls.num_running or _calls.num_begun != seen) and time.monotonic() < deadline:
        seen = _calls.num_begun
        time.sleep(_QUIET_SECONDS)
