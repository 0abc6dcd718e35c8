"""The decoder: what a position may see, texts that share an image, the cache, the tied embedding."""

import keras
import numpy as np
import pytest

from captioner.model.gpt2_decoder import GPT2Decoder, TokenEmbedding

B, G, T, S, D, V = (
    2,
    3,
    5,
    7,
    6,
    13,
)  # images, texts, positions, image tokens, width, vocabulary with 2 special
IMAGE = np.random.default_rng(1).normal(size=(B, S, D)).astype("float32")
TOKENS = np.random.default_rng(2).integers(0, V, (B, G, T)).astype("int32")
ALL = np.ones((B, G, T), bool)


@pytest.fixture(scope="module")
def decoder():
    layer = GPT2Decoder(
        vocabulary_size=V - 2, num_special_tokens=2, num_layers=2, num_heads=2, hidden_dim=D,
        intermediate_dim=11, max_sequence_length=9,
    )  # fmt: skip
    layer.build()
    for i, variable in enumerate(layer.trainable_variables):
        if "norm" not in variable.path:
            variable.assign(np.random.default_rng(i).normal(0, 0.5, variable.shape))
    return layer


def logits_of(decoder, tokens, mask, image=IMAGE):
    return keras.ops.convert_to_numpy(decoder.logits(decoder(tokens, mask, image)))


def test_a_later_token_never_changes_an_earlier_logit(decoder):
    before = logits_of(decoder, TOKENS, ALL)
    assert before.shape == (B, G, T, V)
    for position in range(T):
        changed = TOKENS.copy()
        changed[:, :, position] = (changed[:, :, position] + 1) % V
        differs = np.abs(logits_of(decoder, changed, ALL) - before).max(-1) > 1e-5
        assert not differs[:, :, :position].any()
        assert differs[:, :, position:].all()


def test_a_padded_position_is_seen_by_none_but_itself(decoder):
    mask = ALL.copy()
    mask[:, 1, 3:] = False
    changed = TOKENS.copy()
    changed[:, 1, 3] = (changed[:, 1, 3] + 1) % V
    before, after = logits_of(decoder, TOKENS, mask), logits_of(decoder, changed, mask)
    differs = np.abs(after - before).max(-1) > 1e-5
    assert differs[:, 1, 3].all()
    differs[:, 1, 3] = False
    assert not differs.any()
    assert np.isfinite(before).all()


def test_texts_of_one_pass_equal_separate_passes(decoder):
    together = logits_of(decoder, TOKENS, ALL)
    for b in range(B):
        for g in range(G):
            alone = logits_of(decoder, TOKENS[b : b + 1, g : g + 1], ALL[:1, :1], IMAGE[b : b + 1])
            np.testing.assert_allclose(together[b, g], alone[0, 0], atol=1e-5)


def test_texts_read_their_own_image(decoder):
    swapped = logits_of(decoder, TOKENS, ALL, IMAGE[::-1].copy())
    assert (np.abs(swapped - logits_of(decoder, TOKENS, ALL)).max((-1, -2)) > 1e-3).all()


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1], [3, 1, 1], [2, 3]])
def test_cached_decoding_equals_the_full_pass_at_every_position(decoder, chunks):
    full = logits_of(decoder, TOKENS, ALL)
    rows, index = TOKENS.reshape(B * G, T), 0
    cache, image = decoder.empty_cache(B, G, 8), decoder.image_keys_values(IMAGE)
    for length in chunks:
        hidden, cache, weights = decoder.decode(rows[:, index : index + length], cache, index, image)
        logits = keras.ops.convert_to_numpy(decoder.logits(hidden)).reshape(B, G, length, V)
        np.testing.assert_allclose(logits, full[:, :, index : index + length], atol=1e-5)
        assert len(weights) == 2
        for block_weights in weights:
            assert block_weights.shape == (B, 2, G * length, S)
            np.testing.assert_allclose(keras.ops.convert_to_numpy(block_weights).sum(-1), 1, atol=1e-5)
        index += length


def test_beams_that_branch_read_what_the_beams_they_came_from_have_read(decoder):
    generator = np.random.default_rng(3)
    rows, texts = TOKENS.reshape(B * G, T), np.zeros((B * G, 0), "int32")
    cache, image = decoder.empty_cache(B, G, T), decoder.image_keys_values(IMAGE)
    for index in range(T):
        texts = np.concatenate([texts, rows[:, index : index + 1]], axis=1)
        hidden, cache, _ = decoder.decode(rows[:, index : index + 1], cache, index, image)
        mask = np.ones((B, G, index + 1), bool)
        full = logits_of(decoder, texts.reshape(B, G, index + 1), mask)[:, :, -1]
        logits = keras.ops.convert_to_numpy(decoder.logits(hidden)).reshape(B, G, V)
        np.testing.assert_allclose(logits, full, atol=1e-5)
        parents = (generator.integers(0, G, (B, G)) + G * np.arange(B)[:, None]).reshape(-1)
        texts, cache = texts[parents], decoder.move_rows(cache, parents)
    for keys, values in decoder.move_rows(cache, parents)["blocks"]:
        assert keys.shape == values.shape == (B, 2, T * G, D // 2)


def test_more_positions_than_learned_are_refused(decoder):
    with pytest.raises(ValueError, match=r"at most 9 positions.*\(2, 3, 10\)"):
        decoder(np.zeros((2, 3, 10), "int32"), np.ones((2, 3, 10), bool), IMAGE)


def embedding():
    layer = TokenEmbedding(vocabulary_size=3, num_special_tokens=2, hidden_dim=2)
    layer.build()
    layer.embeddings.assign([[1, 2], [3, 4], [5, 6]])
    layer.special_embeddings.assign([[7, 8], [9, 10]])
    return layer


def test_special_tokens_are_rows_behind_the_vocabulary():
    rows = keras.ops.convert_to_numpy(embedding()(np.array([[4, 0, 3, 2]])))
    np.testing.assert_array_equal(rows, [[[9, 10], [1, 2], [7, 8], [5, 6]]])


def test_the_output_projection_is_the_embedding_itself():
    logits = keras.ops.convert_to_numpy(embedding()(np.array([[[1.0, 10.0]]], "float32"), reverse=True))
    np.testing.assert_array_equal(logits, [[[21, 43, 65, 87, 109]]])


def test_an_embedding_without_special_tokens_is_one_variable():
    layer = TokenEmbedding(vocabulary_size=3, num_special_tokens=0, hidden_dim=2)
    layer.build()
    assert [v.name for v in layer.variables] == ["embeddings"]
    assert layer(np.zeros((1, 1, 2), "float32"), reverse=True).shape == (1, 1, 3)


def test_a_decoder_comes_back_from_its_config(decoder):
    assert GPT2Decoder.from_config(decoder.get_config()).get_config() == decoder.get_config()
