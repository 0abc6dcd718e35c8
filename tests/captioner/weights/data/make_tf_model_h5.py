"""Writes the folders `hdf5_*` beside this file with the TensorFlow classes of transformers 4.

They are gone from transformers 5. In an environment of its own:

    pip install "transformers==4.49.*" "tensorflow==2.18.*" "tf-keras==2.18.*"
    TF_USE_LEGACY_KERAS=1 python make_tf_model_h5.py

Each folder gets config.json, tf_model.h5, and expected.npz with the model's own token ids, hidden states and logits.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
import transformers

SIZES = {
    "hdf5_bare": {"n_positions": 13, "n_embd": 6, "n_layer": 3, "n_head": 3, "n_inner": 10},
    "hdf5_cross_attention": {
        "n_positions": 11,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "add_cross_attention": True,
    },
}


def main() -> None:
    for name, sizes in SIZES.items():
        config = transformers.GPT2Config(vocab_size=257, bos_token_id=256, eos_token_id=256, **sizes)
        model = transformers.TFGPT2LMHeadModel(config)
        cross_attention = config.add_cross_attention
        generator = np.random.default_rng(0)
        token_ids = generator.integers(0, 257, (2, 7)).astype("int32")
        image_tokens = generator.normal(size=(2, 5, config.n_embd)).astype("float32")
        inputs = {"input_ids": tf.constant(token_ids)}
        if cross_attention:
            inputs["encoder_hidden_states"] = tf.constant(image_tokens)
        model(**inputs)
        for variable in model.weights:
            noise = generator.normal(size=variable.shape) * 0.3
            variable.assign(noise + ("gamma" in variable.name))
        folder = Path(__file__).with_name(name)
        model.save_pretrained(folder)
        outputs = model(**inputs, output_hidden_states=True)
        hidden = np.stack([state.numpy() for state in outputs.hidden_states])
        np.savez_compressed(
            folder / "expected.npz",
            token_ids=token_ids,
            image_tokens=image_tokens,
            hidden_states=hidden,
            logits=outputs.logits.numpy(),
        )
        (folder / "generation_config.json").unlink()


if __name__ == "__main__":
    main()
