"""Operations of a training step, against the weights of real networks."""

import keras
import pytest
from tiny_captioner import tiny_captioner, tiny_encoder

from tools.benchmarks.flops import decoder_flops, image_tokens_flops, network_flops, step_flops, vit_flops


def _kernels(layer) -> int:
    return sum(keras.ops.size(v) for v in layer.trainable_variables if "kernel" in v.path)


def test_a_convolution_meets_each_weight_at_each_output_cell():
    assert network_flops(tiny_encoder(channels=7)) == 2 * (3 * 5) * (3 * 3 * 3 * 7)


def test_a_depthwise_convolution_has_one_weight_for_each_channel_and_offset():
    images = keras.Input((9, 15, 4))
    network = keras.Model(images, keras.layers.DepthwiseConv2D(3, strides=3)(images))
    assert network_flops(network) == 2 * (3 * 5) * (3 * 3 * 4)


def test_the_decoder_counts_its_kernels_for_texts_and_for_images_and_attention():
    backbone = tiny_captioner(intermediate_dim=None).backbone
    sizes = {"hidden_dim": 22, "num_layers": 2, "vocabulary_size": 50}
    image_kernels = sum(_kernels(block.cross_attention_key_value) for block in backbone.decoder.blocks)
    text_kernels = sum(_kernels(block) for block in backbone.decoder.blocks) - image_kernels
    num_images, num_captions, num_tokens, num_image_tokens = 3, 5, 7, 15
    rows = num_images * num_captions * num_tokens
    expected = 2 * rows * text_kernels + 2 * num_images * num_image_tokens * image_kernels
    expected += 2 * rows * 22 * 50  # logits
    expected += 2 * 2 * 2 * rows * (num_tokens + num_image_tokens) * 22  # layers; scores and values
    assert decoder_flops(sizes, num_images, num_captions, num_tokens, num_image_tokens) == pytest.approx(
        float(expected)
    )


def test_image_tokens_count_their_projection_and_blocks():
    backbone = tiny_captioner(intermediate_dim=None).backbone
    sizes = {"hidden_dim": 22, "num_image_layers": 1}
    expected = 2 * 15 * _kernels(backbone.image_tokens) + 4 * 15 * 15 * 22
    assert image_tokens_flops(sizes, 15, 7) == pytest.approx(float(expected))


def test_a_vit_is_that_of_its_paper():
    sizes = {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
    }
    # 17.6 billion multiplications with an addition each at 224 px.
    assert vit_flops(sizes) == pytest.approx(35.1e9, rel=0.01)


def test_a_step_costs_three_forward_passes():
    assert step_flops(5.0) == 15.0
