"""Images leave a batch when their captions are settled, and nothing else changes."""

import keras
import numpy as np
import pytest
from tiny_captioner import random_images, tiny_captioner

from captioner.model.caption_search import SMALLEST_SHRUNK, CaptionSearch
from captioner.model.inference import CALLS_BEFORE_XLA
from captioner.sampling import DecodingSettings
from captioner.sampling.token_sampling import uniform_draws

UNREAD = np.zeros((1, 1), "float32")
"""What nothing is drawn with."""
SETTINGS = [
    {},
    {"early_stopping": "first", "num_beams": 2},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"sampler": "greedy"},
    {"sampler": "nucleus", "top_p": 0.9, "seed": 3},
    {"sampler": "contrastive"},
    {"required_words": ("dog",), "prompt": "a"},
]


@pytest.fixture(scope="module")
def captioner():
    """One whose captions end sooner or later, as its end token is louder."""
    model = tiny_captioner()
    special = model.backbone.token_embedding.special_embeddings
    values = np.array(keras.ops.convert_to_numpy(special))
    values[model.preprocessor.tokenizer.end_token_id - model.backbone.vocabulary_size] *= 30
    special.assign(values)
    return model


@pytest.fixture(scope="module")
def image_tokens(captioner):
    return captioner.backbone.encode_images(random_images(19).astype("float32"))


def watched(search):
    """The sizes of the batches that a search goes on with, as they come."""
    sizes, advance = [], search._advance

    def watch(batch, *arguments):
        sizes.append(len(batch[0][0][0]))
        return advance(batch, *arguments)

    search._advance = watch
    return sizes


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_captions_are_those_of_a_batch_that_is_decoded_to_its_end(captioner, image_tokens, settings):
    settings = DecodingSettings(max_length=12, **settings)
    num_captions = 2 if settings.sampler in ("beam", "nucleus") else 1
    search = CaptionSearch(captioner, settings, num_captions)
    sizes = watched(search)
    uniforms = uniform_draws(3, num_captions, 13)
    found = search(image_tokens, uniforms)
    expected = search.decode(image_tokens, uniforms)
    for name, part, whole in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(
            part, keras.ops.convert_to_numpy(whole), rtol=1e-5, atol=1e-5, err_msg=name
        )
    assert sizes == [19, 9, 4][: len(sizes)] and (len(sizes) > 1) == search.shrinks


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="batches are decoded to their end on JAX")
def test_a_batch_is_halved_when_half_of_it_is_done(captioner, image_tokens):
    search = CaptionSearch(captioner, DecodingSettings(sampler="greedy", max_length=16), 1)
    sizes = watched(search)
    search(image_tokens, UNREAD)
    assert sizes == [19, 9, 4]
    sizes.clear()
    search(image_tokens[: SMALLEST_SHRUNK - 1], UNREAD)
    assert sizes == [SMALLEST_SHRUNK - 1]
    search(image_tokens[:1], UNREAD)
    assert sizes == [SMALLEST_SHRUNK - 1], "a single image has a graph of its own"


def test_finished_images_take_no_steps(captioner, image_tokens, monkeypatch):
    search = CaptionSearch(captioner, DecodingSettings(sampler="greedy", max_length=16), 1)
    decoder, rows = captioner.backbone.decoder, []
    decode = decoder.decode
    monkeypatch.setattr(
        decoder, "decode", lambda ids, *rest: rows.append(len(ids)) or decode(ids, *rest), raising=False
    )
    # Eagerly, so that each step is seen.
    monkeypatch.setattr(search, "_decode", search.decode)
    monkeypatch.setattr(search, "_begin", search.begin)
    monkeypatch.setattr(search, "_advance", search.advance)
    lengths = sorted(search(image_tokens, UNREAD).lengths[:, 0].tolist(), reverse=True)
    assert sum(rows) < 19 * lengths[0]
    if search.shrinks:
        assert sum(rows) == 19 * lengths[9] + 9 * (lengths[4] - lengths[9]) + 4 * (lengths[0] - lengths[4])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA inside of TensorFlow")
def test_halves_are_compiled_by_xla_too(captioner, image_tokens):
    search = CaptionSearch(captioner, DecodingSettings(num_beams=2, max_length=12), 1)
    sizes = watched(search)
    before = search(image_tokens, UNREAD)
    assert len(sizes) == 3
    for _ in range(CALLS_BEFORE_XLA):
        by_xla = search(image_tokens, UNREAD)
    np.testing.assert_array_equal(by_xla.token_ids, before.token_ids)
    np.testing.assert_allclose(by_xla.scores, before.scores, rtol=1e-5, atol=1e-5)
