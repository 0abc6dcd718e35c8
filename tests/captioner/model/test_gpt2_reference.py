"""The decoder against Hugging Face's PyTorch GPT-2 with cross-attention, random and tiny."""

import keras
import numpy as np
import pytest
from hugging_face import D, V, copied_decoder, random_gpt2

pytestmark = pytest.mark.oracle

B, T, S = 3, 7, 5


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')
    pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')
    return random_gpt2()


@pytest.fixture(scope="module")
def decoder(reference):
    return copied_decoder(reference)


def reference_logits(reference, token_ids, mask, image_tokens):
    import torch

    with torch.no_grad():
        return reference(
            input_ids=torch.tensor(token_ids.astype("int64")),
            attention_mask=torch.tensor(mask.astype("int64")),
            encoder_hidden_states=torch.tensor(image_tokens),
        ).logits.numpy()


def test_logits_equal_the_pytorch_original(reference, decoder):
    generator = np.random.default_rng(0)
    token_ids = generator.integers(0, V, (B, T)).astype("int32")
    image_tokens = generator.normal(size=(B, S, D)).astype("float32")
    mask = np.arange(T)[None, :] < np.array([[T], [4], [1]])
    ours = decoder.logits(decoder(token_ids[:, None], mask[:, None], image_tokens))
    ours = keras.ops.convert_to_numpy(ours)[:, 0]
    theirs = reference_logits(reference, token_ids, mask, image_tokens)
    assert theirs[mask].std() > 0.5
    np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4)


def test_cached_logits_equal_the_pytorch_original(reference, decoder):
    generator = np.random.default_rng(1)
    token_ids = generator.integers(0, V, (B, T)).astype("int32")
    image_tokens = generator.normal(size=(B, S, D)).astype("float32")
    theirs = reference_logits(reference, token_ids, np.ones((B, T), bool), image_tokens)
    cache, image = decoder.empty_cache(B, 1, T), decoder.image_keys_values(image_tokens)
    for index in range(T):
        hidden, cache, _ = decoder.decode(token_ids[:, index : index + 1], cache, index, image)
        ours = keras.ops.convert_to_numpy(decoder.logits(hidden))[:, 0]
        np.testing.assert_allclose(ours, theirs[:, index], atol=1e-4)
