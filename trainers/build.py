"""From settings to a captioner that is ready to train, and from a trained one to a preset."""

import os
from collections.abc import Iterable
from pathlib import Path

import keras

from captioner.files import atomic_path
from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor, architecture
from captioner.model.lora import add_lora, merged_weights
from captioner.text import CaptionTokenizer, train_tokenizer
from captioner.weights.gpt2 import load_gpt2
from captioner.weights.image_encoders import load_image_encoder
from trainers.settings import TrainSettings
from trainers.stages import stage_settings

_FIXED_BY_PRESET = (
    "architecture",
    "image_encoder",
    "image_encoder_weights",
    "image_size_px",
    "resize",
    "hidden_dim",
    "num_heads",
    "num_image_layers",
    "num_layers",
    "train_tokenizer",
    "tokenizer",
)


def build_captioner(settings: TrainSettings, captions: Iterable[str]) -> ImageCaptioner:
    """Builds the captioner of a run: a preset to fine-tune, or an architecture with a vocabulary, or with a GPT-2.

    Args:
        settings: TrainSettings.
        captions: training captions, to learn a vocabulary from; the same captions give the same vocabulary.

    Raises:
        ValueError: If settings contradict each other.
    """
    keras.utils.set_random_seed(settings.seed)
    captioner = _from_scratch(settings, captions) if settings.preset is None else _from_preset(settings)
    if settings.lora_rank:
        add_lora(
            captioner.backbone.decoder,
            settings.lora_parts,
            settings.lora_rank,
            settings.lora_alpha,
            settings.lora_mlp,
        )
    if settings.gradient_checkpointing:
        captioner.backbone.recompute_blocks()
    positions = captioner.backbone.max_sequence_length
    if settings.max_length > positions:
        raise ValueError(
            f"`max_length` must be at most {positions}, the text positions of the model; received "
            f"max_length={settings.max_length}."
        )
    return captioner


def export_preset(captioner: ImageCaptioner, path: Path, weights_dtype: str = "float32") -> None:
    """Writes a captioner as a preset folder in one step, with its weights stored in `weights_dtype`.

    A preset stored in float16 loads in float32 like any other. Low-rank updates are merged into the weights.
    """
    config = captioner.backbone.get_config() | {"dtype": weights_dtype, "trainable": True}
    backbone = CaptionerBackbone.from_config(config)
    backbone.set_weights(merged_weights(captioner.backbone))
    with atomic_path(path) as temporary:
        ImageCaptioner(backbone, captioner.preprocessor).save_to_preset(str(temporary))


def _from_scratch(settings: TrainSettings, captions: Iterable[str]) -> ImageCaptioner:
    gpt2 = None if settings.gpt2 is None else load_gpt2(settings.gpt2)
    tokenizer = _tokenizer(settings, captions) if gpt2 is None else gpt2.tokenizer
    changes = {
        "image_encoder": settings.image_encoder,
        "image_size": settings.image_size_px and (settings.image_size_px, settings.image_size_px),
        "hidden_dim": settings.hidden_dim,
        "num_heads": settings.num_heads,
        "num_image_layers": settings.num_image_layers,
        "num_layers": settings.num_layers,
        "dropout": settings.dropout,
        "vocabulary_size": tokenizer.vocabulary_size() - tokenizer.num_special_tokens,
        "num_special_tokens": tokenizer.num_special_tokens,
    } | ({} if gpt2 is None else gpt2.decoder_arguments)
    arguments = architecture(
        settings.architecture, **{name: value for name, value in changes.items() if value is not None}
    )
    random_encoder = settings.image_encoder_weights == "none"
    encoder_learns = any("image_encoder" in stage.train_parts for stage in stage_settings(settings))
    backbone = CaptionerBackbone(
        **arguments,
        train_batch_norm=random_encoder and encoder_learns,
        dtype=settings.dtype,
    )
    if gpt2 is not None:
        gpt2.assign(backbone.decoder)
    if not random_encoder:
        encoder = load_image_encoder(
            arguments["image_encoder"], arguments["image_size"], settings.image_encoder_weights
        )
        backbone.image_encoder.set_weights(encoder.get_weights())
    backbone.set_trainable_parts(settings.train_parts, settings.frozen_until)
    preprocessor = ImageCaptionerPreprocessor(
        tokenizer, arguments["image_size"], settings.resize, sequence_length=settings.max_length
    )
    return ImageCaptioner(backbone, preprocessor)


def _from_preset(settings: TrainSettings) -> ImageCaptioner:
    if given := [
        name for name in _FIXED_BY_PRESET if getattr(settings, name) != getattr(TrainSettings, name)
    ]:
        raise ValueError(
            f"`{given[0]}` is fixed by the preset; received {given[0]}={getattr(settings, given[0])} with "
            f"preset={settings.preset!r}. Leave one of the two out."
        )
    loaded = ImageCaptioner.from_preset(settings.preset, dtype=settings.dtype)
    if settings.dropout is not None and settings.dropout != loaded.backbone.dropout:
        backbone = CaptionerBackbone.from_config(loaded.backbone.get_config() | {"dropout": settings.dropout})
        backbone.set_weights(loaded.backbone.get_weights())
        loaded = ImageCaptioner(backbone, loaded.preprocessor)
    loaded.backbone.set_trainable_parts(settings.train_parts, settings.frozen_until)
    return loaded


def _tokenizer(settings: TrainSettings, captions: Iterable[str]) -> CaptionTokenizer:
    if settings.tokenizer is None:
        return train_tokenizer(captions, settings.train_tokenizer)
    names = (("vocabulary.json", "vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe"))
    vocabulary, merges = (_first_file(settings.tokenizer, choices) for choices in names)
    return CaptionTokenizer(vocabulary, merges)


def _first_file(folder: str | os.PathLike, names: tuple[str, ...]) -> Path:
    for name in names:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise FileNotFoundError(f"`tokenizer` {folder} must hold one of {', '.join(names)}; it holds none.")
