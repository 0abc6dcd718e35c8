"""The transformer block against arithmetic in numpy."""

import keras
import numpy as np
import pytest

from captioner.model.transformer_block import TransformerBlock, attend, merge_heads, split_heads

B, G, T, S, D, N = 2, 3, 5, 7, 6, 2  # images, texts, positions, image tokens, width, heads


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy_of(x):
    return keras.ops.convert_to_numpy(x)


def test_heads_split_the_width_and_come_back():
    x = random(B, T, D)
    heads = numpy_of(split_heads(x, N))
    assert heads.shape == (B, N, T, D // N)
    np.testing.assert_array_equal(heads[1, 1, 4], x[1, 4, 3:])
    np.testing.assert_array_equal(numpy_of(merge_heads(keras.ops.convert_to_tensor(heads))), x)


def test_attention_without_preference_is_the_mean_of_what_the_mask_lets_through():
    values = random(B, N, S, 3)
    mask = np.array([1, 0, 1, 0, 0, 0, 1], bool)
    outputs, weights = attend(
        keras.ops.zeros((B, N, T, 3)),
        keras.ops.convert_to_tensor(random(B, N, S, 3, seed=1)),
        keras.ops.convert_to_tensor(values),
        mask,
    )
    np.testing.assert_allclose(numpy_of(outputs)[:, :, 4], values[:, :, [0, 2, 6]].mean(2), atol=1e-6)
    np.testing.assert_allclose(numpy_of(weights)[1, 1, 2], mask / 3, atol=1e-6)


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def numpy_attention(queries, keys, values, mask):
    """One head at a time; `(T, H)`, `(S, H)`, `(S, H)`, bool `(T, S)`."""
    scores = np.where(mask, queries @ keys.T / np.sqrt(queries.shape[-1]), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ values


def numpy_block(weights, x, image, mask):
    """GPT-2's block with cross-attention for one text `(T, D)` and its image `(S, D)`."""

    def dense(name, x):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def heads(queries, keys, values, mask):
        parts = (np.split(array, N, axis=-1) for array in (queries, keys, values))
        return np.concatenate([numpy_attention(q, k, v, mask) for q, k, v in zip(*parts, strict=True)], -1)

    branch = heads(*np.split(dense("query_key_value", norm(x)), 3, -1), mask)
    x = x + dense("self_attention_output", branch)
    queries = dense("cross_attention_query", norm(x))
    branch = heads(
        queries, *np.split(dense("cross_attention_key_value", image), 2, -1), np.ones((T, S), bool)
    )
    x = x + dense("cross_attention_output", branch)
    h = dense("mlp_intermediate", norm(x))
    gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return x + dense("mlp_output", gelu)


def built_block(**arguments):
    keras.utils.set_random_seed(0)
    block = TransformerBlock(num_heads=N, intermediate_dim=11, **arguments)
    block.build((None, None, D))
    for i, variable in enumerate(block.trainable_variables):
        if "norm" not in variable.path:
            variable.assign(random(*variable.shape, seed=i))
    return block


def test_the_block_is_gpt2s_with_cross_attention_between_self_attention_and_mlp():
    block, x, image = built_block(cross_attention=True), random(B * G, T, D), random(B, S, D, seed=1)
    causal = np.tril(np.ones((T, T), bool))
    keys, values = block.project_image(image)
    outputs, cache, weights = block(x, causal, keys, values)
    assert cache is None
    named = {"/".join(v.path.split("/")[-2:]): numpy_of(v) for v in block.trainable_variables}
    for row in range(B * G):
        expected = numpy_block(named, x[row], image[row // G], causal)
        np.testing.assert_allclose(numpy_of(outputs)[row], expected, rtol=1e-3, atol=1e-4)
    assert weights.shape == (B, N, G * T, S)
    np.testing.assert_allclose(numpy_of(weights).sum(-1), 1, atol=1e-5)
    assert numpy_of(weights).std(-1).min() > 1e-3  # they choose


def test_a_bidirectional_block_sees_all_and_has_no_cross_attention():
    block, x = built_block(), random(B, T, D)
    changed = x.copy()
    changed[:, -1, 2] += 1
    before, after = (numpy_of(block(y)[0]) for y in (x, changed))
    assert (np.abs(after - before).max(-1) > 1e-5).all()
    assert block.cross_attention_layers == []
    assert not [v.path for v in block.variables if "cross" in v.path]


def test_dropout_acts_in_training_only():
    block, x = built_block(dropout=0.5), random(B, T, D)
    np.testing.assert_array_equal(numpy_of(block(x)[0]), numpy_of(block(x, training=False)[0]))
    assert np.abs(numpy_of(block(x, training=True)[0]) - numpy_of(block(x)[0])).max() > 0.1


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads=4, width=6"):
        TransformerBlock(num_heads=4, intermediate_dim=8).build((None, None, 6))


def test_a_block_comes_back_from_its_config():
    block = TransformerBlock(
        num_heads=2, intermediate_dim=9, cross_attention=True, dropout=0.3, layer_norm_epsilon=1e-3
    )
    assert TransformerBlock.from_config(block.get_config()).get_config() == block.get_config()
