"""Tiny random `VisionEncoderDecoderModel` folders, written by transformers itself."""

import json
from pathlib import Path

import numpy as np
from tokenizers import ByteLevelBPETokenizer

CAPTIONS = ["a dog runs on the beach", "two cats sleep on a red sofa", "a man rides a bike", "the dog sleeps"]
IMAGE_SIZE = (12, 18)
GENERATION = {"max_length": 14, "num_beams": 5, "length_penalty": 0.8, "early_stopping": "never"}


def write_captioner(folder: Path, kind: str = "vit", encoder_width: int = 15, seed: int = 0, **saving):
    """Writes a folder as nlpconnect/vit-gpt2-image-captioning has it; returns transformers' model.

    Args:
        folder: path of the folder.
        kind: "vit" or "deit".
        encoder_width: width of the image encoder; the decoder's is 10, and another one needs a projection.
        seed: of the weights.
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
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = end
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
        decoder_start_token_id=end, eos_token_id=end, pad_token_id=end, **GENERATION
    )
    model.save_pretrained(folder, **saving)
    processor_class = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor"}[kind]
    height, width = IMAGE_SIZE
    processor = {
        "image_processor_type": processor_class, "do_resize": True, "size": {"height": height, "width": width},
        "resample": 2, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.3, 0.2],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def rewrite_json(path: Path, **changes) -> None:
    """Changes entries of a JSON file; a value of None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def photos(count: int) -> np.ndarray:
    """uint8 `(B, 12, 18, 3)`."""
    return np.random.default_rng(3).integers(0, 256, (count, *IMAGE_SIZE, 3)).astype("uint8")


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
