"""Measures our decoder with random weights: decoding of a forced length, the image encoder, the floor.

Axes: B images, G texts per image, R = B*G rows, S image tokens, D width, L text positions.
"""

from collections.abc import Callable

from tools.benchmarks.worker import serve, timed

START = 0
"""Any token will do."""


def decode_forced(decoder, image_tokens, num_beams: int, num_tokens: int):
    """Decodes exactly `num_tokens` tokens, as no token ends a caption.

    Args:
        decoder: `GPT2Decoder`.
        image_tokens: float tensor `(B, S, D)`.
        num_beams: int. 1 is greedy.
        num_tokens: int.

    Returns:
        `Decoded`, with one caption for each image.
    """
    from keras import ops

    from captioner.sampling import DecodingSettings
    from captioner.sampling.decode import decode
    from captioner.sampling.task import Task

    chosen = {"num_beams": num_beams} if num_beams > 1 else {"sampler": "greedy"}
    num_images, length = ops.shape(image_tokens)[0], num_tokens + 1
    image_keys_values = decoder.image_keys_values(image_tokens)

    def next(token_ids, cache, index):
        last = ops.slice(token_ids, (0, index - 1), (ops.shape(token_ids)[0], 1))
        hidden, cache, _ = decoder.decode(last, cache, index - 1, image_keys_values)
        return decoder.logits(hidden[:, 0]), hidden[:, 0], cache

    task = Task(
        prompt=ops.broadcast_to(ops.cast(START, "int32"), (num_images, length)),
        prompt_mask=ops.broadcast_to(ops.arange(length) == 0, (num_images, length)),
        first_index=1,
        end_token_ids=(),
        pad_token_id=START,
        settings=DecodingSettings(max_length=num_tokens, **chosen),
        num_captions=1,
        num_given=1,
    )
    cache = decoder.empty_cache(num_images, num_beams, length)
    return decode(next, cache, task, decoder.move_rows)


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `part` of the configuration names: `caption` or `floor`."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(configuration["num_threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    measure = {"caption": _caption, "floor": _floor}[configuration["part"]](configuration)
    return {"versions": {"tensorflow": tf.__version__, "keras": keras.__version__}}, measure


def _caption(configuration: dict) -> Callable[[], dict]:
    """Encodes B photos, and decodes from S random image tokens: the two are timed apart, so S is the same for all."""
    import keras
    import numpy as np

    from captioner.model import CaptionerBackbone
    from captioner.model.inference import compile_inference

    model, batch = configuration["model"], configuration["batch_size"]
    backbone = CaptionerBackbone(**model, num_special_tokens=0, dtype=configuration["dtype"])
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 255, (batch, *model["image_size"], 3)).astype("float32")
    shape = (batch, configuration["num_image_tokens"], model["hidden_dim"])
    image_tokens = generator.normal(size=shape).astype("float32")

    def decode(image_tokens):
        tokens = decode_forced(
            backbone.decoder, image_tokens, configuration["num_beams"], configuration["num_tokens"]
        )
        return tokens.token_ids

    xla_after = 0 if configuration["dtype"] == "float32" else None
    decode = compile_inference(backbone, decode, xla_after=xla_after)
    encode = compile_inference(
        backbone, lambda images: keras.ops.cast(backbone.encode_images(images), "float32")
    )
    needs_encoder = configuration["with_encoder"]

    def measure() -> dict:
        num_tokens, decode_seconds = timed(lambda: keras.ops.convert_to_numpy(decode(image_tokens)))
        encode_seconds = 0.0
        if needs_encoder:
            _, encode_seconds = timed(lambda: keras.ops.convert_to_numpy(encode(images)))
        return {
            "decode_seconds": decode_seconds,
            "encode_seconds": encode_seconds,
            "num_tokens": int(num_tokens.shape[-1]) - 1,
        }

    return measure


def _floor(configuration: dict) -> Callable[[], dict]:
    """The products of R rows with each weight matrix that a step reads, and nothing else, for as many steps as decoding takes."""
    import tensorflow as tf

    model, dtype = configuration["model"], configuration["dtype"]
    width, num_rows = model["hidden_dim"], configuration["batch_size"] * configuration["num_beams"]
    pairs = [
        (tf.random.normal((num_rows, rows), dtype=tf.float32), tf.random.normal((rows, columns)))
        for rows, columns in weight_shapes(width, model["num_layers"], model["vocabulary_size"])
    ]
    inputs = {x.shape[1]: tf.cast(x, dtype) for x, _ in pairs}
    weights = [tf.Variable(tf.cast(weight, dtype)) for _, weight in pairs]
    del pairs

    @tf.function(autograph=False)
    def step():
        # A sum of one number each keeps the products from being pruned.
        return [tf.matmul(inputs[weight.shape[0]], weight)[0, 0] for weight in weights]

    def measure() -> dict:
        num_steps = configuration["num_tokens"]
        _, seconds = timed(lambda: [step()[-1].numpy() for _ in range(num_steps)])
        return {"step_seconds": seconds / num_steps}

    return measure


def weight_shapes(width: int, num_layers: int, vocabulary_size: int) -> list[tuple[int, int]]:
    """Rows and columns of the matrices that one step of the decoder multiplies with."""
    block = [
        (width, 3 * width), (width, width),  # self-attention
        (width, width), (width, width),  # cross-attention: queries and output
        (width, 4 * width), (4 * width, width),
    ]  # fmt: skip
    return block * num_layers + [(width, vocabulary_size)]


if __name__ == "__main__":
    serve(start)
