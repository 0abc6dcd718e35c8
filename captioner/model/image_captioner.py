"""The captioner: images in, captions with scores out.

Axes: B images, G texts per image, N captions per image, L text positions, V vocabulary.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import keras
import keras_hub
import numpy as np

from captioner.model.backbone import CaptionerBackbone
from captioner.model.calibration import Calibration
from captioner.model.caption import Caption
from captioner.model.caption_search import CaptionSearch
from captioner.model.generation import Generation
from captioner.model.given_captions import GivenCaptions
from captioner.model.inference import compile_inference
from captioner.model.preprocessor import ImageCaptionerPreprocessor
from captioner.model.presets import resolve_preset
from captioner.model.resizing import resize_captioner
from captioner.sampling.contrastive_search import num_candidates
from captioner.sampling.decode import positions_read, require_captions
from captioner.sampling.decoded import Decoded
from captioner.sampling.sampler import CaptionSampler
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.text_controls import TextControls, require_possible
from captioner.sampling.token_sampling import uniform_draws

MOST_SEARCHES = 32
"""Compiled searches that a captioner keeps: a prompt of its own for each photo would fill the memory."""


@keras.saving.register_keras_serializable("captioner")
class ImageCaptioner(Generation, GivenCaptions, keras_hub.models.CausalLM):
    """A `CaptionerBackbone` with its tokenizer and image transform: trains, generates and captions.

    `compile`, `fit`, `generate`, `from_preset` and `save_to_preset` are KerasHub's; `caption` adds what
    captioning needs: several captions for each image, with their probabilities; `score` and `attention` are about
    captions that are given.

    Args:
        backbone: `CaptionerBackbone`.
        preprocessor: optional `ImageCaptionerPreprocessor`; without it, inputs are the backbone's.
        calibration: optional `Calibration`, or a dict of its values; without it, captions have no confidence.

    Call arguments:
        inputs: dict of `images` float `(B, height, width, 3)`, `token_ids` int `(B, G, T)`, `padding_mask`
            bool `(B, G, T)`; `(B, T)` is taken as G = 1.

    Returns:
        float32 logits `(B, G, T, V)`, or `(B, T, V)` as the inputs were.

    Example:
    ```python
    model = captioner.ImageCaptioner.from_preset("flickr8k_lite2")
    for caption in model.caption(["photo.jpg"], num_captions=3)[0]:
        print(caption.text, caption.score)
    ```
    """

    backbone_cls = CaptionerBackbone
    preprocessor_cls = ImageCaptionerPreprocessor

    def __init__(self, backbone, preprocessor=None, calibration=None, **kwargs):
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.calibration = Calibration(**calibration) if isinstance(calibration, dict) else calibration
        inputs = backbone.input
        outputs = backbone.token_embedding(backbone(inputs), reverse=True)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._forget_compiled()

    @classmethod
    def from_preset(cls, preset, load_weights=True, image_size: tuple[int, int] | None = None, **kwargs):
        """Loads a bundled preset by name, a preset folder, a training run's folder, or `hf://` and
        `kaggle://` handles.

        See `keras_hub.models.Task.from_preset`. `image_size`, `(height, width)` in px, is that of the preset by default;
        for another one the learned positions of the image tokens are interpolated, see `resize_captioner`.
        """
        captioner = super().from_preset(resolve_preset(preset), load_weights=load_weights, **kwargs)
        return captioner if image_size is None else resize_captioner(captioner, image_size)

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", sampler=None, **kwargs):
        """As `keras_hub.models.CausalLM.compile`; `sampler`, which `generate` uses, may be decoding settings, and is by default
        what `caption` uses, without its prompt and words."""
        if sampler is None:
            sampler = dataclasses.replace(
                self._own_settings(), prompt="", forbidden_words=(), required_words=()
            )
        if isinstance(sampler, DecodingSettings):
            sampler = CaptionSampler(sampler)
        super().compile(optimizer, loss, weighted_metrics=weighted_metrics, sampler=sampler, **kwargs)
        # What was compiled before may read variables that LoRA, say, has replaced since.
        self._forget_compiled()

    def _post_quantize(self, mode, **kwargs):
        super()._post_quantize(mode, **kwargs)
        self._forget_compiled()

    def _forget_compiled(self) -> None:
        self._inference_functions = {}
        self._searches = {}

    def _own_settings(self) -> DecodingSettings:
        return DecodingSettings(**(self.preprocessor.decoding if self.preprocessor else {}))

    @property
    def input_spec(self):
        return None

    def call(self, inputs, training=None, mask=None):
        hidden = self.backbone(inputs, training=training)
        return self.backbone.token_embedding(hidden, reverse=True)

    def caption(
        self,
        images: Sequence,
        sampler: DecodingSettings | None = None,
        num_captions: int = 1,
        batch_size: int = 16,
    ) -> list[list[Caption]]:
        """Captions images.

        Args:
            images: list of paths, or of uint8 or float arrays `(H, W, 3)` in 0..255; sizes may differ.
            sampler: `DecodingSettings`; by default beam search as the preset has it.
            num_captions: int. Captions for each image, best first.
            batch_size: int. Images that run through the model at once.

        Returns:
            For each image a list of `num_captions` captions.

        Raises:
            ImageError: If an image cannot be read.
            ValueError: If the settings cannot give that many captions, do not fit the model, or contradict each other;
                or if the model has no preprocessor.
        """
        if self.preprocessor is None:
            raise ValueError(
                "`caption` needs a `preprocessor`, which reads images and texts; this model has None."
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; received batch_size={batch_size}.")
        sampler = sampler or self._own_settings()
        require_captions(sampler, num_captions)
        self._search(sampler, num_captions)  # refuses words that contradict each other
        if isinstance(images, str | os.PathLike) or getattr(images, "ndim", None) == 3:
            images = [images]
        return [
            captions
            for start in range(0, len(images), batch_size)
            for captions in self.caption_batch(
                self.preprocessor.prepare_images(images[start : start + batch_size]), sampler, num_captions
            )
        ]

    def caption_batch(
        self,
        images,
        sampler: DecodingSettings,
        num_captions: int = 1,
        encode: Callable | None = None,
    ) -> list[list[Caption]]:
        """Captions a batch that is ready for the model.

        Args:
            images: float array `(B, height, width, 3)` in 0..255, or whatever `encode` reads.
            sampler: decoding settings.
            num_captions: int.
            encode: optional function from `images` to image tokens `(B, S, D)`; by default the backbone's.
        """
        self._require_fit(sampler.max_length, sampler)
        encode = encode or self.backbone.encode_images
        if encode not in self._inference_functions:
            self._inference_functions[encode] = compile_inference(self, encode)
        image_tokens = self._inference_functions[encode](np.asarray(images, "float32"))
        search = self._search(sampler, num_captions)
        uniforms = uniform_draws(sampler.seed, num_captions, sampler.max_length + 1)
        return self._captions(search(image_tokens, uniforms), search.controls)

    def _search(self, sampler: DecodingSettings, num_captions: int) -> CaptionSearch:
        """The compiled search of some settings, whatever their seed; the latest are kept."""
        key = (dataclasses.replace(sampler, seed=0), num_captions)
        if key not in self._searches:
            search = CaptionSearch(self, *key)
            while len(self._searches) >= MOST_SEARCHES:
                self._searches.pop(next(iter(self._searches)))
            self._searches[key] = search
        return self._searches[key]

    def _require_fit(self, max_length: int, sampler: DecodingSettings) -> None:
        limit = self.backbone.max_sequence_length
        limit -= positions_read(sampler, max_length + 1) - max_length
        decoder = self.backbone.decoder
        vocabulary_size = decoder.vocabulary_size + decoder.num_special_tokens
        if sampler.sampler == "contrastive" and num_candidates(sampler) > vocabulary_size:
            raise ValueError(
                f"`top_k` must be at most {vocabulary_size}, the tokens of this model; received top_k={sampler.top_k}."
            )
        if max_length > limit:
            raise ValueError(
                f"`max_length` must be at most {limit} generated tokens, for the text positions that this model has learned; "
                f"received max_length={max_length}."
            )

    def search(self, image_tokens, sampler: DecodingSettings, num_captions: int, uniforms=None) -> Decoded:
        """Decodes captions as tensors; may be part of a graph.

        Args:
            image_tokens: float tensor `(B, S, D)`, as `backbone.encode_images` gives.
            sampler: decoding settings.
            num_captions: int. N.
            uniforms: float32 tensor `(N, L)` or `(B, N, L)` in [0, 1), with L = `max_length` + 1: what nucleus
                sampling draws with.

        Returns:
            `Decoded`, with the start token at position 0.
        """
        return CaptionSearch(self, sampler, num_captions).decode(image_tokens, uniforms)

    def _captions(self, decoded, controls: TextControls) -> list[list[Caption]]:
        token_ids, token_log_probs, log_probs, scores, lengths = decoded
        require_possible(scores)

        def caption(b, n):
            num_scored = int(lengths[b, n])
            written = slice(1, 1 + controls.num_unscored + num_scored)
            tokens = token_ids[b, n, written].tolist(), token_log_probs[b, n, written].tolist()
            return self._caption(*tokens, float(log_probs[b, n]), float(scores[b, n]), num_scored)

        return [[caption(b, n) for n in range(scores.shape[1])] for b in range(scores.shape[0])]

    def get_config(self):
        calibration = self.calibration and dataclasses.asdict(self.calibration)
        return super().get_config() | {"calibration": calibration}
