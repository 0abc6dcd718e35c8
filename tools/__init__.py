"""The `captioner` command: reads flags, calls the libraries, prints."""

import importlib

__all__ = ["load", "load_hdf5"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'tools' has no attribute {name!r}")
    return getattr(importlib.import_module("tools.load_weights"), name)
