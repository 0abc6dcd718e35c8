"""The model: image encoders, image tokens, transformer block, GPT-2 decoder, and the captioner made of
them."""

from captioner.model.backbone import CaptionerBackbone
from captioner.model.caption import Caption
from captioner.model.image_captioner import ImageCaptioner
from captioner.model.preprocessor import ImageCaptionerPreprocessor
from captioner.model.presets import ARCHITECTURES, architecture

__all__ = [
    "ARCHITECTURES",
    "Caption",
    "CaptionerBackbone",
    "ImageCaptioner",
    "ImageCaptionerPreprocessor",
    "architecture",
]
