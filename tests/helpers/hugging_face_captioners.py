"""Tiny random `VisionEncoderDecoderModel` folders, written by transformers itself."""

import json
from pathlib import Path

import numpy as np
from tokenizers import ByteLevelBPETokenizer

from captioner.weights import write_safetensors

CAPTIONS = ["a dog runs on the beach", "two cats sleep on a red sofa", "a man rides a bike", "the dog sleeps"]
IMAGE_SIZE = (12, 18)
GENERATION = {"max_length": 14, "num_beams": 5, "length_penalty": 0.8, "early_stopping": "never"}
"""The generation settings of these folders."""
DECODING = {
    "num_beams": 5, "length_penalty": 0.8, "max_length": 13, "min_length": 0, "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "early_stopping": "exact",
}  # fmt: skip
"""The same in our words; theirs counts the start token in `max_length`."""


def write_captioner(
    folder: Path,
    kind: str = "vit",
    encoder_width: int = 15,
    seed: int = 0,
    start: int | None = None,
    generation: dict | None = None,
    **saving,
):
    """Writes a folder as nlpconnect/vit-gpt2-image-captioning has it; returns transformers' model.

    Args:
        folder: path of the folder.
        kind: "vit" or "deit".
        encoder_width: width of the image encoder; the decoder's is 10, and another one needs a projection.
        seed: of the weights.
        start: id of the start token; the end token if not given.
        generation: changes to `GENERATION`.
        **saving: for `save_pretrained`.
    """
    import torch
    import transformers

    num_tokens = _write_tokenizer(folder)
    end = num_tokens - 1
    encoder_class = {"vit": transformers.ViTConfig, "deit": transformers.DeiTConfig}[kind]
    encoder = encoder_class(
        image_size=list(IMAGE_SIZE), patch_size=6, hidden_size=encoder_width, num_hidden_layers=2,
        num_attention_heads=5, intermediate_size=26,
    )  # fmt: skip
    decoder = transformers.GPT2Config(
        vocab_size=num_tokens, n_positions=17, n_embd=10, n_layer=2, n_head=2, bos_token_id=end, eos_token_id=end,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    start = end if start is None else start
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = start, end, end
    model = transformers.VisionEncoderDecoderModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.4
            parameter.copy_(1 + noise if parameter.ndim == 1 and name.endswith("weight") else noise)
        # Captions that are sure of their words, and that end.
        model.decoder.transformer.ln_f.weight *= 2
        model.decoder.transformer.wte.weight[end] += model.decoder.transformer.ln_f.bias
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, **(GENERATION | (generation or {}))
    )
    model.save_pretrained(folder, **saving)
    _write_processor(folder, {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor"}[kind])
    return model


def write_captioner_tensors(folder: Path, kind: str = "vit") -> dict[str, np.ndarray]:
    """Writes such a folder without transformers: random tensors under the names that it gives them, which are returned."""
    num_tokens = _write_tokenizer(folder)
    end = num_tokens - 1
    encoder = {
        "model_type": kind, "image_size": list(IMAGE_SIZE), "patch_size": 6, "hidden_size": 15, "num_hidden_layers": 2,
        "num_attention_heads": 5, "intermediate_size": 26,
    }  # fmt: skip
    decoder = {
        "model_type": "gpt2",
        "vocab_size": num_tokens,
        "n_positions": 17,
        "n_embd": 10,
        "n_layer": 2,
        "n_head": 2,
    }
    config = {
        "model_type": "vision-encoder-decoder",
        "encoder": encoder,
        "decoder": decoder,
        "eos_token_id": end,
    }
    (folder / "config.json").write_text(json.dumps(config))
    generation = GENERATION | {"decoder_start_token_id": end, "eos_token_id": [end], "pad_token_id": end}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    _write_processor(folder, "ViTImageProcessor")
    generator = np.random.default_rng(0)
    tensors = {
        name: (generator.normal(size=shape) * 0.4).astype("float32")
        for name, shape in _shapes(kind, num_tokens).items()
    }
    write_tensors(folder, tensors)
    return tensors


def write_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes model.safetensors."""
    rows = [(name, array.shape, lambda array=array: array) for name, array in tensors.items()]
    write_safetensors(folder / "model.safetensors", rows)


def rewrite_json(path: Path, **changes) -> None:
    """Changes entries of a JSON file; a value of None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def photos(count: int) -> np.ndarray:
    """uint8 `(B, 12, 18, 3)`."""
    return np.random.default_rng(3).integers(0, 256, (count, *IMAGE_SIZE, 3)).astype("uint8")


def _write_processor(folder: Path, kind: str) -> None:
    height, width = IMAGE_SIZE
    processor = {
        "image_processor_type": kind, "do_resize": True, "size": {"height": height, "width": width},
        "resample": 2, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.3, 0.2],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def _shapes(kind: str, num_tokens: int) -> dict[str, tuple[int, ...]]:
    num_more = {"vit": 1, "deit": 2}[kind]
    shapes = {
        "encoder.embeddings.cls_token": (1, 1, 15),
        "encoder.embeddings.position_embeddings": (1, 6 + num_more, 15),
        "encoder.embeddings.patch_embeddings.projection.weight": (15, 3, 6, 6),
        "encoder.embeddings.patch_embeddings.projection.bias": (15,),
        "encoder.pooler.dense.weight": (15, 15),
        "encoder.pooler.dense.bias": (15,),
        "enc_to_dec_proj.weight": (10, 15),
        "enc_to_dec_proj.bias": (10,),
        "decoder.transformer.wte.weight": (num_tokens, 10),
        "decoder.transformer.wpe.weight": (17, 10),
    }
    if kind == "deit":
        shapes["encoder.embeddings.distillation_token"] = (1, 1, 15)
    linear, conv1d, norms = {}, {}, {"encoder.layernorm": 15, "decoder.transformer.ln_f": 10}
    for index in range(2):
        layer, block = f"encoder.encoder.layer.{index}", f"decoder.transformer.h.{index}"
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            linear[f"{layer}.{name}"] = (15, 15)
        linear[f"{layer}.attention.output.dense"] = (15, 15)
        linear |= {f"{layer}.intermediate.dense": (26, 15), f"{layer}.output.dense": (15, 26)}
        norms |= {f"{layer}.layernorm_before": 15, f"{layer}.layernorm_after": 15}
        conv1d |= {f"{block}.attn.c_attn": (10, 30), f"{block}.attn.c_proj": (10, 10)}
        conv1d |= {f"{block}.crossattention.c_attn": (10, 20), f"{block}.crossattention.q_attn": (10, 10)}
        conv1d |= {f"{block}.crossattention.c_proj": (10, 10)}
        conv1d |= {f"{block}.mlp.c_fc": (10, 40), f"{block}.mlp.c_proj": (40, 10)}
        norms |= {f"{block}.{name}": 10 for name in ("ln_1", "ln_2", "ln_cross_attn")}
    for name, (out, ins) in linear.items():
        shapes |= {f"{name}.weight": (out, ins), f"{name}.bias": (out,)}
    for name, (ins, out) in conv1d.items():
        shapes |= {f"{name}.weight": (ins, out), f"{name}.bias": (out,)}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def _write_tokenizer(folder: Path) -> int:
    """vocab.json and merges.txt, with <|endoftext|> as the last token; returns the number of tokens."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(CAPTIONS * 3, vocab_size=290, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save_model(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["<|endoftext|>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    return len(vocabulary)
