"""A random tiny GPT-2 with cross-attention in PyTorch, and our decoder with its weights. Axes: S image tokens, D width."""

from captioner.model.gpt2_decoder import GPT2Decoder

D, N, V, LAYERS, POSITIONS = 12, 3, 29, 2, 11

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


def random_gpt2(end_token_id: int = 0):
    """Hugging Face's `GPT2LMHeadModel` with random weights; token 0 starts a text."""
    import torch
    import transformers

    config = transformers.GPT2Config(
        vocab_size=V, n_positions=POSITIONS, n_embd=D, n_layer=LAYERS, n_head=N, add_cross_attention=True,
        bos_token_id=0, eos_token_id=end_token_id, pad_token_id=end_token_id,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "ln_" in name and name.endswith("weight") else noise)
    return model


def copied_decoder(reference) -> GPT2Decoder:
    """Our decoder with the weights of `reference`, each used once."""
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
