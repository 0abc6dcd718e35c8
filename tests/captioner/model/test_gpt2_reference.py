"""The decoder against Hugging Face's PyTorch GPT-2 with cross-attention, random and tiny."""

import keras
import numpy as np
import pytest

from captioner.model.gpt2_decoder import GPT2Decoder

pytestmark = pytest.mark.oracle

B, T, S, D, N, V, LAYERS, POSITIONS = 3, 7, 5, 12, 3, 29, 2, 11

# Ours: theirs. Their Conv1D keeps kernels `(in, out)`, as Keras does.
BLOCK = {
    "self_attention_norm": "ln_1",
    "query_key_value": "attn.c_attn",
    "self_attention_output": "attn.c_proj",
    "cross_attention_norm": "ln_cross_attn",
    "cross_attention_query": "crossattention.q_attn",
    "cross_attention_key_value": "crossattention.c_attn",
    "cross_attention_output": "crossattention.c_proj",
    "mlp_norm": "ln_2",
    "mlp_intermediate": "mlp.c_fc",
    "mlp_output": "mlp.c_proj",
}


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')
    transformers = pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=POSITIONS, n_embd=D, n_layer=LAYERS, n_head=N, add_cross_attention=True,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "ln_" in name and name.endswith("weight") else noise)
    return model


@pytest.fixture(scope="module")
def decoder(reference):
    state = {name: tensor.numpy() for name, tensor in reference.transformer.state_dict().items()}
    layer = GPT2Decoder(
        vocabulary_size=V, num_special_tokens=0, num_layers=LAYERS, num_heads=N, hidden_dim=D,
        intermediate_dim=4 * D, max_sequence_length=POSITIONS,
    )  # fmt: skip
    layer.build()
    layer.token_embedding.embeddings.assign(state.pop("wte.weight"))
    layer.position_embedding.assign(state.pop("wpe.weight"))
    layers = {
        f"h.{i}.{theirs}": getattr(block, ours)
        for i, block in enumerate(layer.blocks)
        for ours, theirs in BLOCK.items()
    }
    for theirs, ours in (layers | {"ln_f": layer.final_norm}).items():
        ours.set_weights([state.pop(f"{theirs}.weight"), state.pop(f"{theirs}.bias")])
    assert not [name for name in state if not name.endswith(("attn.bias", "masked_bias", "attention.bias"))]
    return layer


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
