"""The grid of image tokens, from the shapes of real encoders."""

import pytest

from captioner.model.image_grid import ImageGrid, image_grid


@pytest.mark.parametrize(
    ("features_shape", "image_size", "grid"),
    [
        ((None, 3, 5, 7), (9, 15), ImageGrid(3, 5)),
        ((None, 196, 768), (224, 224), ImageGrid(14, 14)),
        ((None, 197, 768), (224, 224), ImageGrid(14, 14, 1)),  # ViT-B/16 with its class token
        ((None, 198, 768), (224, 224), ImageGrid(14, 14, 2)),  # DeiT-B/16 with a distillation token too
        ((None, 6, 8), (32, 48), ImageGrid(2, 3)),
        ((None, 7, 8), (48, 32), ImageGrid(3, 2, 1)),
    ],
)
def test_the_grid_is_that_of_a_map_or_of_square_patches(features_shape, image_size, grid):
    assert image_grid(features_shape, image_size) == grid


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(ValueError, match="199 tokens for 224 x 224 px, which is no grid"):
        image_grid((None, 199, 768), (224, 224))
