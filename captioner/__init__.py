"""Image captioning in Keras 3: an image encoder, image tokens and a GPT-2 decoder.

Names are imported at their first use, so that `import captioner` is quick.
"""

import importlib

_MODULES = {
    "Caption": "captioner.model",
    "CaptionerBackbone": "captioner.model",
    "DecodingSettings": "captioner.sampling",
    "ImageCaptioner": "captioner.model",
    "ImageCaptionerPreprocessor": "captioner.model",
}

__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'captioner' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
