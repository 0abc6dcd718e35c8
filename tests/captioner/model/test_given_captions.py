"""Scores and attention of given captions, against decoding and against weights set by hand."""

import keras
import numpy as np
import pytest
from tiny_captioner import IMAGE_SIZE, logits_of, random_images, tiny_captioner

from captioner.sampling import DecodingSettings

IMAGES = random_images(3)


@pytest.fixture(scope="module")
def model():
    return tiny_captioner()


@pytest.fixture(scope="module")
def decoded(model):
    return model.caption(
        IMAGES, DecodingSettings(num_beams=4, length_penalty=0.6, max_length=7), num_captions=3
    )


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one.text, one.token_ids) == (other.text, other.token_ids)
            np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-4)
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
            assert one.score == pytest.approx(other.score, abs=1e-4)


def test_the_score_of_a_decoded_caption_is_what_decoding_reported(model, decoded):
    assert_same(model.score(IMAGES, decoded, length_penalty=0.6), decoded)
    token_ids = [[caption.token_ids for caption in captions] for captions in decoded]
    assert_same(model.score(IMAGES, token_ids, length_penalty=0.6), decoded)


def test_a_preset_with_its_own_length_penalty_scores_as_it_decodes(monkeypatch):
    model = tiny_captioner()
    monkeypatch.setattr(model.preprocessor, "decoding", {"length_penalty": 1.3, "max_length": 7})
    decoded = model.caption(IMAGES, num_captions=2)
    assert_same(model.score(IMAGES, decoded), decoded)
    [[likelier, _], *_] = decoded
    assert likelier.score == pytest.approx(likelier.log_prob / len(likelier.token_ids) ** 1.3)


def test_drawn_captions_are_scored_as_they_were_drawn(model):
    drawn = model.caption(
        IMAGES, DecodingSettings(sampler="nucleus", top_p=0.9, temperature=1.5, max_length=6), num_captions=2
    )
    assert_same(model.score(IMAGES, drawn, length_penalty=1.0), drawn)


def test_captions_of_one_batch_are_scored_as_one_by_one(model, decoded):
    ragged = [decoded[0], decoded[1][:1], []]
    together = model.score(IMAGES, ragged, batch_size=2)
    assert [len(captions) for captions in together] == [3, 1, 0]
    alone = [
        [model.score([image], [caption])[0][0] for caption in captions]
        for image, captions in zip(IMAGES, ragged, strict=True)
    ]
    assert_same(together, alone)


def test_a_text_is_scored_as_its_tokens_and_the_end_token(model):
    tokenizer = model.preprocessor.tokenizer
    token_ids = (*tokenizer.tokenize("a dog sleeps"), tokenizer.end_token_id)
    [[by_text]] = model.score(IMAGES[0], "a dog sleeps")
    assert_same([[by_text]], model.score(IMAGES[:1], [token_ids]))
    inputs = {
        "images": IMAGES[:1].astype("float32"),
        "token_ids": np.array([[tokenizer.start_token_id, *token_ids[:-1]]], "int32"),
        "padding_mask": np.ones((1, len(token_ids)), bool),
    }
    logits = logits_of(model, inputs)[0].astype("float64")
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = log_probs[np.arange(len(token_ids)), list(token_ids)]
    np.testing.assert_allclose(by_text.token_log_probs, expected, atol=1e-4)
    assert by_text.text == "a dog sleeps"
    assert by_text.log_prob == pytest.approx(expected.sum(), abs=1e-4)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([["a dog"], ["a cat"]], "one entry for each image; received 2 for 3"),
        ([[[]]] * 3, r"1 to 17 tokens.*has 0"),
        ([[list(range(18))]] * 3, r"1 to 17 tokens.*has 18"),
        ([[(3, 9999)]] * 3, "token ids from 0 to .* received 9999"),
    ],
)
def test_what_cannot_be_scored_is_refused(model, captions, message):
    with pytest.raises(ValueError, match=message):
        model.score(IMAGES, captions)


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_each_token_has_a_map_over_the_grid_that_sums_to_one(model, decoded, layer):
    maps = model.attention(IMAGES, decoded, layer, batch_size=2)
    for ours, captions in zip(maps, decoded, strict=True):
        for array, caption in zip(ours, captions, strict=True):
            assert array.shape == (len(caption.token_ids), 3, 5)
            np.testing.assert_allclose(array.sum(axis=(1, 2)), 1.0, atol=1e-5)


def test_the_mean_over_layers_is_the_mean_of_the_layers(model, decoded):
    captions = [captions[0] for captions in decoded]
    mean, first, second = (model.attention(IMAGES, captions, layer) for layer in (None, 0, 1))
    for m, a, b in zip(mean, first, second, strict=True):
        np.testing.assert_allclose(m[0], (a[0] + b[0]) / 2, atol=1e-6)
        assert np.abs(a[0] - b[0]).max() > 1e-3, (
            "the layers look alike, so that a wrong choice would not show"
        )


def test_a_layer_that_is_not_there_is_refused(model):
    with pytest.raises(ValueError, match=r"from 0 to 1.*received layer=2"):
        model.attention(IMAGES, ["a"] * 3, layer=2)


def bright_seeker():
    """A captioner set by hand to attend to bright cells, whatever it says."""
    images = keras.Input((*IMAGE_SIZE, 3))
    cells = keras.layers.Conv2D(2, 3, strides=3)
    model = tiny_captioner(image_encoder=keras.Model(images, cells(images)), num_image_layers=0)
    kernel = np.zeros((3, 3, 3, 2), "float32")
    kernel[..., 0], kernel[..., 1] = 1 / 27, -1 / 27  # mean brightness, and its opposite
    cells.set_weights([kernel, np.array([-128.0, 128.0])])
    tokens = model.backbone.image_tokens.tokens
    projection = np.zeros((2, 22), "float32")
    projection[0, 4] = 1.0
    tokens.projection.set_weights([projection, np.zeros(22)])
    tokens.positions.assign(np.zeros(tokens.positions.shape))
    for block in model.backbone.decoder.blocks:
        key_value = np.zeros((22, 44), "float32")
        key_value[4, :22] = 1.0  # the keys are the brightness
        block.cross_attention_key_value.set_weights([key_value, np.zeros(44)])
        block.cross_attention_query.set_weights([np.zeros((22, 22)), np.ones(22)])  # the query asks for it
    return model


@pytest.mark.parametrize(("row", "column"), [(0, 4), (2, 1)])
def test_the_map_falls_on_the_bright_object(row, column):
    image = np.zeros((27, 30, 3), "uint8")  # stretched to 9 x 15: cells of 9 x 6 px in a grid of 3 x 5
    image[9 * row : 9 * row + 9, 6 * column : 6 * column + 6] = 255
    [[maps]] = bright_seeker().attention([image], ["a dog sleeps"])
    for cells in maps:
        assert np.unravel_index(cells.argmax(), cells.shape) == (row, column)
        assert cells.max() > 0.9
