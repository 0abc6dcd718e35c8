"""Which variable belongs to which part of a captioner."""

import keras


def variables_of_parts(backbone: keras.Model) -> dict[str, list]:
    """The variables of each part, frozen or not; every weight of the captioner is in one of them.

    Args:
        backbone: `CaptionerBackbone`.

    Returns:
        For each of `PARTS` its Keras variables.
    """
    decoder = backbone.decoder
    parts = {
        "image_encoder": [backbone.image_encoder],
        "image_blocks": [backbone.image_tokens],
        "cross_attention": [layer for block in decoder.blocks for layer in block.cross_attention_layers],
        "embeddings": [backbone.token_embedding],
    }
    variables = {part: [v for layer in layers for v in layer.variables] for part, layers in parts.items()}
    variables["embeddings"].append(decoder.position_embedding)
    others = {id(variable) for part in variables.values() for variable in part}
    return variables | {"decoder": [v for v in decoder.variables if id(v) not in others]}
