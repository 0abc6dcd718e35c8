"""Validation: loss, perplexity and token accuracy of given captions, and scores of generated ones.

Axes: B images, G texts per image, T text positions, V vocabulary.
"""

import math
import os
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from captioner.model import ImageCaptioner
from captioner.model.inference import compile_inference
from captioner.sampling import DecodingSettings


class Validator:
    """Measures a captioner after each epoch; compiles its functions once.

    Args:
        captioner: the captioner; its current weights are used at each call.
        training_model: the model that reads the batches: of images, or of features.
        dataset: batches `(x, y, sample_weight)` of the validation images, in order.
        references: for each validation image its captions, in the same order.
        num_captioned: int. Images that are captioned, in whole batches evenly spread; 0 captions all.
        num_beams: int. Beams of the generated captions; in all else they are decoded as the captioner's
            preset says, if it says beam search.
        max_length: int. Most tokens of a generated caption.
        encode: function from the images of a batch to image tokens, or None for the captioner's own.
    """

    def __init__(
        self,
        captioner: ImageCaptioner,
        training_model: keras.Model,
        dataset,
        references: list[tuple[str, ...]],
        *,
        num_captioned: int,
        num_beams: int,
        max_length: int,
        encode: Callable | None,
    ):
        self.captioner = captioner
        self.dataset = dataset
        self.references = references
        self.encode = encode
        own = captioner.preprocessor.decoding
        if own.get("sampler", "beam") != "beam":
            own = {}
        length = min(max_length, captioner.backbone.max_sequence_length)
        shortened = {"max_length": length, "min_length": min(own.get("min_length", 0), length)}
        self.sampler = DecodingSettings(**own | {"num_beams": num_beams} | shortened)
        self.num_captioned = num_captioned or len(references)

        def sums(images, token_ids, padding_mask, targets, sample_weight):
            inputs = {"images": images, "token_ids": token_ids, "padding_mask": padding_mask}
            logits = training_model(inputs, training=False)
            log_probs = ops.take_along_axis(ops.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
            correct = ops.cast(ops.cast(ops.argmax(logits, axis=-1), targets.dtype) == targets, "float32")
            weight = ops.cast(sample_weight, "float32")
            return ops.sum(-log_probs * weight), ops.sum(correct * weight), ops.sum(weight)

        self._sums = compile_inference(captioner, sums)

    def __call__(self) -> tuple[dict[str, float], dict[int, str]]:
        """Runs over the validation images once.

        Returns:
            `val_loss` (nats per token, without label smoothing), `val_perplexity`, `val_token_accuracy`,
            `val_bleu_4` and `val_cider`; and the generated captions by the index of the image. An image that became
            unusable is in neither.
        """
        totals, captions, index = np.zeros(3), {}, 0
        for x, targets, sample_weight in self.dataset.as_numpy_iterator():
            arguments = (x["images"], x["token_ids"], x["padding_mask"], targets, sample_weight)
            totals += [float(total) for total in self._sums(*arguments)]
            # A batch is captioned when the share of captioned images has fallen behind.
            if len(captions) * len(self.references) <= index * self.num_captioned:
                batch = self.captioner.caption_batch(x["images"], self.sampler, encode=self.encode)
                captions |= {
                    index + row: best.text for row, (best,) in enumerate(batch) if sample_weight[row].any()
                }
            index += len(targets)
        loss = totals[0] / totals[2]
        metrics = {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700.0)),
            "val_token_accuracy": totals[1] / totals[2],
        }
        return metrics | self._scores(captions), captions

    def _scores(self, captions: dict[int, str]) -> dict[str, float]:
        from captioner.evaluation import quick_scores

        scores = quick_scores(captions, {index: self.references[index] for index in captions})
        return {"val_bleu_4": scores["BLEU-4"], "val_cider": scores["CIDEr"]}


def image_rows(paths: list[str | os.PathLike], captions: dict[int, str], references, limit: int):
    """Contact sheet rows of the first `limit` captioned images."""
    from captioner.evaluation import SheetRow

    return [
        SheetRow(image=paths[index], lines=(text, f"({references[index][0]})"))
        for index, text in sorted(captions.items())[:limit]
    ]
