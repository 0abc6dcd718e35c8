"""Our GPT-2 decoder as a folder that Hugging Face's `transformers` opens."""

import json
import os
from pathlib import Path

from captioner.files import atomic_path
from captioner.model import ImageCaptioner
from captioner.weights.gpt2_config import hugging_face_config
from captioner.weights.gpt2_names import HUGGING_FACE
from captioner.weights.gpt2_tokenizer import write_gpt2_tokenizer
from captioner.weights.safetensors_checkpoint import write_safetensors


def export_gpt2(captioner: ImageCaptioner, folder: str | os.PathLike) -> None:
    """Writes a captioner's decoder with its cross-attention, and its tokenizer, in one step.

    `transformers.GPT2LMHeadModel.from_pretrained(folder)` gives the same logits when it is called with our image
    tokens as `encoder_hidden_states`. The image encoder is not part of it.

    Args:
        captioner: ImageCaptioner with a preprocessor.
        folder: path of the folder to write.

    Raises:
        OSError: If it cannot be written.
    """
    decoder, tokenizer = captioner.backbone.decoder, captioner.preprocessor.tokenizer
    config = hugging_face_config(
        decoder,
        bos_token_id=tokenizer.start_token_id,
        eos_token_id=tokenizer.end_token_id,
        pad_token_id=tokenizer.end_token_id if tokenizer.pad_token is None else tokenizer.pad_token_id,
    )
    with atomic_path(folder) as temporary:
        Path(temporary).mkdir()
        write_safetensors(temporary / "model.safetensors", HUGGING_FACE.tensors(decoder, "transformer."))
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_gpt2_tokenizer(tokenizer, temporary)
