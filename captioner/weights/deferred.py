"""Variables without values: a model is built, filled and saved with one of its tensors in memory at a time."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras.src.backend.common import global_state  # no public way to forget uninitialised variables

_SCOPE = contextvars.ContextVar("deferred_variables", default=None)


class DeferredVariables(keras.StatelessScope):
    """A scope whose models have no values: each variable is read from its source, or initialised, when it is saved.

    A model that was built in this scope must be saved in it, and is of no use outside.

    Example:
    ```python
    with DeferredVariables():
        captioner, report = build_captioner(load_gpt2("models/1558M"))
        captioner.save_to_preset("presets/gpt2_1558m")
    ```
    """

    def __init__(self):
        super().__init__(initialize_variables=False)
        self._sources = {}

    def __enter__(self):
        self._token = _SCOPE.set(self)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        _SCOPE.reset(self._token)
        # The next scope would give them all values.
        global_state.set_global_attribute("uninitialized_variables", [])

    def defer(self, variable: keras.Variable, read: Callable[[], np.ndarray]) -> None:
        """Says where the value of a variable comes from."""
        self._sources[id(variable)] = (variable, read)  # holds the variable, and so its id

    def get_current_value(self, variable):
        if id(variable) not in self._sources:
            return super().get_current_value(variable)
        _, read = self._sources[id(variable)]
        return keras.ops.convert_to_tensor(read(), dtype=variable.dtype)


def fill(variable: keras.Variable, read: Callable[[], np.ndarray]) -> None:
    """Gives a variable its value: now, or in `DeferredVariables` when it is saved.

    Args:
        variable: variable to fill.
        read: function that gives an array of its shape.
    """
    scope = _SCOPE.get()
    if scope is None:
        variable.assign(read())
    else:
        scope.defer(variable, read)


@contextlib.contextmanager
def outside_deferral() -> Iterator[None]:
    """Leaves a `DeferredVariables` for a moment: a task compiles itself, and an optimizer wants its variables at once."""
    scope = _SCOPE.get()
    if scope is None:
        yield
        return
    scope.__exit__(None, None, None)
    try:
        yield
    finally:
        scope.__enter__()
