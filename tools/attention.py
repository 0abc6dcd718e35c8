"""Attention pictures of `captioner caption --attention`: one file for each photo."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.messages import say

MAX_STEM = 40
"""Letters of a photo's name in the name of its picture."""


class AttentionPictures:
    """Writes for each photo a strip of its best caption's words into a folder.

    Args:
        folder: str. Is created.
        captioner: `ImageCaptioner`.
        layer: optional int. The decoder block to show; None for the mean of all.

    Raises:
        ValueError: If the captioner has no such layer, or no grid of image tokens.
    """

    def __init__(self, folder: str, captioner: Any, layer: int | None):
        self.folder, self.captioner, self.layer = Path(folder), captioner, layer
        captioner.attention([], [], layer)  # refuses what cannot be drawn, before any work
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, captioned: Sequence[tuple[str, Any, Any]]) -> None:
        """Draws a batch of photos: the name, the pixels and the caption of each."""
        from captioner.evaluation.attention_strip import attention_strip, word_maps

        preprocessor = self.captioner.preprocessor
        maps = self.captioner.attention(
            [pixels for _, pixels, _ in captioned],
            [caption for *_, caption in captioned],
            self.layer,
            batch_size=max(1, len(captioned)),
        )
        for (name, pixels, caption), (of_caption,) in zip(captioned, maps, strict=True):
            words = word_maps(preprocessor.tokenizer, caption.token_ids, of_caption)
            if words:
                view = preprocessor.image_transform.view(pixels)
                attention_strip(view, words, self.folder / picture_name(name), headline=caption.text)
            else:
                say(f"{name}: the caption has no word, so there is no picture")


def picture_name(image: str) -> str:
    """A file name of its own for each image: the end of its name, and a digest of the whole.

    Letters that a file name may not have become "_", so that a picture never leaves its folder.
    """
    stem = re.sub(r"[^\w-]+", "_", Path(image).stem)[:MAX_STEM]
    digest = hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{stem}-{digest}.jpg"
