"""Folders with a tiny random GPT-2 in each format, and GPT-2 in plain NumPy to compare with.

Axes: R rows, T text positions, N heads, H head width, D width, V vocabulary.
"""

import json

import keras
import numpy as np
from keras import ops
from tokenizers.pre_tokenizers import ByteLevel

from captioner.weights import write_safetensors

SIZES = {
    "three_layers": {"n_vocab": 257, "n_ctx": 13, "n_embd": 6, "n_head": 3, "n_layer": 3},
    "two_layers": {"n_vocab": 257, "n_ctx": 11, "n_embd": 8, "n_head": 2, "n_layer": 2},
}


def openai_variables(sizes: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random variables under the names and in the shapes of OpenAI's model.py."""
    width, inner = sizes["n_embd"], sizes.get("n_inner") or 4 * sizes["n_embd"]
    shapes = {"model/wte": (sizes["n_vocab"], width), "model/wpe": (sizes["n_ctx"], width)}
    shapes |= {"model/ln_f/g": (width,), "model/ln_f/b": (width,)}
    for i in range(sizes["n_layer"]):
        block = f"model/h{i}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}/{norm}/g": (width,), f"{block}/{norm}/b": (width,)}
        projections = {
            "attn/c_attn": (width, 3 * width), "attn/c_proj": (width, width),
            "mlp/c_fc": (width, inner), "mlp/c_proj": (inner, width),
        }  # fmt: skip
        for name, (ins, outs) in projections.items():
            shapes |= {f"{block}/{name}/w": (1, ins, outs), f"{block}/{name}/b": (outs,)}
    generator = np.random.default_rng(seed)
    return {
        name: (generator.normal(size=shape) * 0.4 + name.endswith("/g")).astype("float32")
        for name, shape in shapes.items()
    }


def hugging_face_tensors(sizes: dict, prefix: str = "transformer.", seed: int = 0) -> dict[str, np.ndarray]:
    """The same numbers as `openai_variables`, under Hugging Face's names."""
    tensors = {}
    for name, array in openai_variables(sizes, seed).items():
        *path, last = name.split("/")[1:]
        if not path:  # wte, wpe
            tensors[f"{prefix}{last}.weight"] = array
            continue
        if path[0].startswith("h"):
            path[0] = f"h.{path[0][1:]}"
        kind = "bias" if last == "b" else "weight"
        tensors[f"{prefix}{'.'.join(path)}.{kind}"] = array[0] if last == "w" else array
    return tensors


def write_openai_folder(folder, sizes: dict, variables: dict[str, np.ndarray]):
    """As `tf.train.Saver` wrote OpenAI's folders."""
    import tensorflow as tf

    folder.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in variables.items():
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"), write_meta_graph=False)
    (folder / "hparams.json").write_text(json.dumps(sizes))
    write_byte_vocabulary(folder, "encoder.json", "vocab.bpe")
    return folder


def write_hugging_face_folder(folder, sizes: dict, tensors: dict[str, np.ndarray], **config):
    folder.mkdir(exist_ok=True)
    write_arrays(folder / "model.safetensors", tensors)
    names = {"n_vocab": "vocab_size", "n_ctx": "n_positions"}
    sizes = {names.get(name, name): value for name, value in sizes.items()}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes, **config}))
    write_byte_vocabulary(folder)
    return folder


def write_arrays(path, arrays: dict[str, np.ndarray]) -> None:
    write_safetensors(path, [(name, a.shape, lambda a=a: a) for name, a in arrays.items()])


def write_byte_vocabulary(folder, vocabulary: str = "vocab.json", merges: str = "merges.txt") -> None:
    """256 bytes and the end of text, without merges: V = 257."""
    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    (folder / vocabulary).write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / merges).write_text("#version: 0.2\n")


def numpy_gpt2(variables: dict, num_heads: int, token_ids) -> tuple[list[np.ndarray], np.ndarray]:
    """GPT-2 as its paper and model.py say: hidden states `(R, T, D)` after each block, and logits `(R, T, V)`."""
    v = {name: array.astype("float64") for name, array in variables.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * v[f"{name}/g"] + v[f"{name}/b"]

    def project(x, name):
        return x @ v[f"{name}/w"][0] + v[f"{name}/b"]

    def attend(x):
        rows, length, width = x.shape
        q, k, u = (
            part.reshape(rows, length, num_heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(x, 3, axis=-1)
        )
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((length, length))), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        outputs = weights / weights.sum(-1, keepdims=True) @ u
        return outputs.transpose(0, 2, 1, 3).reshape(rows, length, width // 3)

    x = v["model/wte"][token_ids] + v["model/wpe"][: token_ids.shape[1]]
    hidden = []
    for i in range(sum(name.endswith("ln_1/g") for name in v)):
        block = f"model/h{i}"
        attended = attend(project(norm(x, f"{block}/ln_1"), f"{block}/attn/c_attn"))
        x = x + project(attended, f"{block}/attn/c_proj")
        inner = project(norm(x, f"{block}/ln_2"), f"{block}/mlp/c_fc")
        gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        x = x + project(gelu, f"{block}/mlp/c_proj")
        hidden.append(x)
    return hidden, norm(x, "model/ln_f") @ v["model/wte"].T


def decoder_outputs(decoder, token_ids, image_tokens) -> tuple[list[np.ndarray], np.ndarray]:
    """What our decoder computes, in the layout of `numpy_gpt2`; `image_tokens` is `(R, S, D)`."""
    length = token_ids.shape[1]
    mask = np.tril(np.ones((length, length), bool))
    x = decoder.token_embedding(token_ids) + decoder.position_embedding[:length]
    hidden = []
    for block in decoder.blocks:
        x = block(x, mask, *block.project_image(ops.convert_to_tensor(image_tokens)), training=False)[0]
        hidden.append(keras.ops.convert_to_numpy(x))
    ones = np.ones(token_ids.shape, bool)
    whole = decoder(token_ids[:, None], ones[:, None], ops.convert_to_tensor(image_tokens), training=False)
    return hidden, keras.ops.convert_to_numpy(decoder.logits(whole))[:, 0]
