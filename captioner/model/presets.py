"""Captioners by name: architectures in code, and presets in folders."""

import os
from pathlib import Path
from types import MappingProxyType

from captioner.resources import bundled_preset, list_bundled_presets

_GPT2 = {"vocabulary_size": 50257, "num_special_tokens": 0, "max_sequence_length": 1024, "dropout": 0.1}
_GPT2_124M = {"hidden_dim": 768, "num_heads": 12, "num_layers": 12}
_GPT2_355M = {"hidden_dim": 1024, "num_heads": 16, "num_layers": 24}
_GPT2_774M = {"hidden_dim": 1280, "num_heads": 20, "num_layers": 36}
_GPT2_1558M = {"hidden_dim": 1600, "num_heads": 25, "num_layers": 48}


def _efficientnet_v2(size: str, num_image_layers: int) -> dict:
    return {
        "image_encoder": f"efficientnet_v2_{size}",
        "image_size": (400, 400),
        "num_image_layers": num_image_layers,
    }


ARCHITECTURES = MappingProxyType(
    {
        # The two recipes that gpt2-captioning with EfficientNetV2 was published with; the larger two follow
        # them.
        "gpt2_124m_efficientnet_v2_s": _GPT2 | _GPT2_124M | _efficientnet_v2("s", 2),
        "gpt2_355m_efficientnet_v2_m": _GPT2 | _GPT2_355M | _efficientnet_v2("m", 8),
        "gpt2_774m_efficientnet_v2_l": _GPT2 | _GPT2_774M | _efficientnet_v2("l", 8),
        "gpt2_1558m_efficientnet_v2_l": _GPT2 | _GPT2_1558M | _efficientnet_v2("l", 8),
        # Trained from scratch on a few thousand images; the vocabulary is learned from their captions.
        "small_efficientnet_lite0": {
            "image_encoder": "efficientnet_lite0",
            "image_size": (224, 224),
            "vocabulary_size": 4096,
            "num_special_tokens": 3,
            "hidden_dim": 256,
            "num_heads": 8,
            "num_image_layers": 1,
            "num_layers": 3,
            "max_sequence_length": 64,
            "dropout": 0.1,
        },
    }
)
"""Arguments of `CaptionerBackbone` by name."""


def architecture(name: str, **changes) -> dict:
    """The arguments of `CaptionerBackbone` for a named architecture.

    Args:
        name: a key of `ARCHITECTURES`.
        **changes: arguments that differ, such as `image_encoder` or `dropout`.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"`name` must be one of {', '.join(ARCHITECTURES)}; received {name!r}.")
    return ARCHITECTURES[name] | changes


def resolve_preset(preset: str | os.PathLike) -> str:
    """The folder or handle that KerasHub loads for what a user names.

    Args:
        preset: a bundled preset's name, a preset folder, a training run's folder (its exported preset is
            taken), or a handle with a scheme, such as `hf://user/model`.

    Raises:
        FileNotFoundError: If it is none of these.
    """
    name = os.fspath(preset)
    if "://" in name:
        return name
    if name in list_bundled_presets():
        return str(bundled_preset(name))
    folder = Path(name)
    # A run folder has a config.json too, of the run.
    for candidate in (folder / "preset", folder):
        if (candidate / "config.json").is_file():
            return str(candidate)
    bundled = ", ".join(list_bundled_presets()) or "none"
    what = "holds no preset (config.json)" if folder.is_dir() else "is neither a folder nor a bundled preset"
    raise FileNotFoundError(f"`preset` {name!r} {what}. Bundled presets: {bundled}.")
