"""What a captioner says about captions that it is given: their probability, and where it looks.

Axes: B images, G captions per image, T text positions, h rows and w columns of the image tokens' grid, S image tokens,
D width, V vocabulary.
"""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from captioner.model.caption import Caption
from captioner.model.image_grid import image_grid
from captioner.model.inference import compile_inference
from captioner.sampling.settings import DecodingSettings

GivenCaption = str | Caption | Sequence[int]
_LENGTH_STEP = 8  # texts are padded to a multiple of this, so that few shapes are compiled


class GivenCaptions:
    """The methods of an `ImageCaptioner` that read given captions, all captions of an image beside each other.

    A caption is given as text, as a `Caption`, or as token ids. Text is tokenized as it is and ended with the end token;
    decoding may have spelled the same text with other tokens, or may have been cut off before the end token. Give the
    `Caption` itself where that matters: its token ids are taken.
    """

    def score(
        self,
        images: Sequence,
        captions: Sequence[GivenCaption | Sequence[GivenCaption]],
        length_penalty: float | None = None,
        batch_size: int = 16,
    ) -> list[list[Caption]]:
        """Scores given captions: what decoding would have reported, had it written them.

        Args:
            images: list of paths, or of uint8 or float arrays `(H, W, 3)` in 0..255; sizes may differ.
            captions: for each image a caption, or a list of captions; see `GivenCaptions`. The numbers of captions may
                differ.
            length_penalty: float. Exponent of the length that divides the log-probability in `Caption.score`; by default the
                preset's.
            batch_size: int. Images that run through the model at once; each runs once for all of its captions.

        Returns:
            For each image its captions, in the order given.

        Raises:
            ImageError: If an image cannot be read.
            ValueError: If images and captions differ in number, a caption holds no token, an unknown one or too many.
        """
        if length_penalty is None and self.preprocessor is not None:  # without one, nothing is scored below
            length_penalty = DecodingSettings(**self.preprocessor.decoding).length_penalty
        log_probs = self._compiled("score", self._given_log_probs)
        scored = []
        for pixels, texts, token_ids, targets in self._given_batches(images, captions, batch_size):
            batch = ops.convert_to_numpy(log_probs(pixels, token_ids, targets))
            scored += [
                [
                    self._scored(ids, row[: len(ids)], length_penalty)
                    for ids, row in zip(given, rows, strict=False)
                ]
                for given, rows in zip(texts, batch, strict=True)
            ]
        return scored

    def attention(
        self,
        images: Sequence,
        captions: Sequence[GivenCaption | Sequence[GivenCaption]],
        layer: int | None = None,
        batch_size: int = 16,
    ) -> list[list[np.ndarray]]:
        """Where the decoder looks as it says each token: its cross-attention, averaged over heads.

        Args:
            images: as for `score`.
            captions: as for `score`.
            layer: int. The decoder block, 0 is the first; None averages over all.
            batch_size: int. Images that run through the model at once.

        Returns:
            For each image and each of its captions a float32 array `(T, h, w)`: a map for each token, the end token
            included, that sums to 1. Cell `(0, 0)` is the upper left corner of what the model sees of the image.

        Raises:
            ImageError: If an image cannot be read.
            ValueError: As for `score`; also if there is no such layer, or image tokens are no grid.
        """
        num_layers = self.backbone.num_layers
        if layer is not None and not 0 <= layer < num_layers:
            raise ValueError(
                f"`layer` must be from 0 to {num_layers - 1}, the decoder blocks of this model; received layer={layer}."
            )
        grid = image_grid(self.backbone.features_shape, self.backbone.image_size)
        weights = self._compiled(("attention", layer), lambda *inputs: self._given_attention(*inputs, layer))
        maps = []
        for pixels, texts, token_ids, _ in self._given_batches(images, captions, batch_size):
            cells = ops.convert_to_numpy(weights(pixels, token_ids))[..., grid.num_class_tokens :]
            cells = cells / cells.sum(axis=-1, keepdims=True)
            cells = cells.reshape(*cells.shape[:-1], grid.height, grid.width)
            maps += [
                [row[: len(ids)] for ids, row in zip(given, rows, strict=False)]
                for given, rows in zip(texts, cells, strict=True)
            ]
        return maps

    def _given_log_probs(self, images, token_ids, targets):
        """Log-probability of each target: float32 `(B, G, T)`."""
        backbone = self.backbone
        # Texts are padded behind their end and attention is causal, so that padding changes nothing before it.
        everywhere = ops.ones_like(token_ids, dtype="bool")
        hidden = backbone.decoder(token_ids, everywhere, backbone.encode_images(images), training=False)

        def of_image(inputs):
            hidden, targets = inputs
            log_probs = ops.log_softmax(backbone.decoder.logits(hidden), axis=-1)
            return ops.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]

        # Image by image: the logits of a batch, (B, G, T, V), would not fit.
        return ops.map(of_image, (hidden, targets))

    def _given_attention(self, images, token_ids, layer):
        """Cross-attention, mean over heads and the chosen layers: float32 `(B, G, T, S)`."""
        decoder = self.backbone.decoder
        num_images, num_texts, length = ops.shape(token_ids)
        rows = ops.reshape(token_ids, (-1, length))
        image_keys_values = decoder.image_keys_values(self.backbone.encode_images(images))
        cache = decoder.empty_cache(num_images, num_texts, length)
        _, _, weights = decoder.decode(rows, cache, 0, image_keys_values)
        chosen = weights if layer is None else [weights[layer]]
        mean = sum(ops.mean(ops.cast(block, "float32"), axis=1) for block in chosen) / len(chosen)
        return ops.reshape(mean, (num_images, num_texts, length, mean.shape[-1]))

    def _compiled(self, key, function):
        if key not in self._inference_functions:
            self._inference_functions[key] = compile_inference(self, function)
        return self._inference_functions[key]

    def _given_batches(self, images, captions, batch_size: int) -> Iterator[tuple]:
        """Batches of pixels, the token ids of each caption, and what is read and said: int32 `(B, G, T)`."""
        if self.preprocessor is None:
            raise ValueError(
                "Given captions need a `preprocessor`, which reads images and texts; this model has None."
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received batch_size={batch_size}.")
        if isinstance(images, str | os.PathLike) or getattr(images, "ndim", None) == 3:
            images, captions = [images], [captions]
        if len(images) != len(captions):
            raise ValueError(
                f"`captions` must hold one entry for each image; received {len(captions)} for {len(images)} images."
            )
        texts = [[self._given_token_ids(caption) for caption in _as_list(given)] for given in captions]
        for start in range(0, len(images), batch_size):
            batch = texts[start : start + batch_size]
            pixels = self.preprocessor.prepare_images(images[start : start + batch_size])
            yield pixels, batch, *self._packed(batch)

    def _given_token_ids(self, caption: GivenCaption) -> tuple[int, ...]:
        tokenizer = self.preprocessor.tokenizer
        if isinstance(caption, str):
            token_ids = (*tokenizer.tokenize(caption), tokenizer.end_token_id)
        else:
            token_ids = tuple(
                int(i) for i in (caption.token_ids if isinstance(caption, Caption) else caption)
            )
        limit, num_known = self.backbone.max_sequence_length, tokenizer.vocabulary_size()
        if not 1 <= len(token_ids) <= limit:
            raise ValueError(
                f"`captions` must have 1 to {limit} tokens, the end token included; {caption!r} has {len(token_ids)}."
            )
        if unknown := [i for i in token_ids if not 0 <= i < num_known]:
            raise ValueError(
                f"`captions` must have token ids from 0 to {num_known - 1}; received {unknown[0]}."
            )
        return token_ids

    def _packed(self, texts: list[list[tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
        tokenizer = self.preprocessor.tokenizer
        longest = max((len(ids) for given in texts for ids in given), default=1)
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self.backbone.max_sequence_length)
        shape = (len(texts), max(1, *(len(given) for given in texts)), length)
        token_ids = np.full(shape, tokenizer.pad_token_id, dtype="int32")
        targets = token_ids.copy()
        token_ids[..., 0] = tokenizer.start_token_id
        for row, given in enumerate(texts):
            for text, ids in enumerate(given):
                token_ids[row, text, 1 : len(ids)] = ids[:-1]
                targets[row, text, : len(ids)] = ids
        return token_ids, targets

    def _scored(self, token_ids: tuple[int, ...], token_log_probs, length_penalty: float) -> Caption:
        log_prob = float(token_log_probs.sum(dtype="float64"))
        score, num_scored = log_prob / len(token_ids) ** length_penalty, len(token_ids)
        return self._caption(token_ids, token_log_probs.tolist(), log_prob, score, num_scored)

    def _caption(self, token_ids, token_log_probs, log_prob: float, score: float, num_scored: int) -> Caption:
        return Caption(
            text=self.preprocessor.tokenizer.decode(token_ids).strip(),
            token_ids=tuple(token_ids),
            token_log_probs=tuple(token_log_probs),
            log_prob=log_prob,
            score=score,
            confidence=self.calibration and self.calibration(log_prob, num_scored),
        )


def _as_list(given) -> list[GivenCaption]:
    """One caption, or several, as a list; a bare sequence of numbers is one caption."""
    is_one = isinstance(given, str | Caption) or (len(given) and isinstance(given[0], int | np.integer))
    return [given] if is_one else list(given)
