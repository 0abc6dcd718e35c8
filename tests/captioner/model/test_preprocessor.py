"""The preprocessor: any images and captions to one batch, eagerly and inside tf.data."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_captioner import CAPTIONS, IMAGE_SIZE, random_images

from captioner.images import ImageError
from captioner.model import ImageCaptionerPreprocessor
from captioner.text import train_tokenizer

PREPROCESSOR = ImageCaptionerPreprocessor(train_tokenizer(CAPTIONS * 2, 280), IMAGE_SIZE, sequence_length=11)
TOKENIZER = PREPROCESSOR.tokenizer


@pytest.fixture
def paths(tmp_path):
    """Three images of different sizes."""
    files = []
    for i, (height, width) in enumerate([(9, 15), (31, 8), (20, 44)]):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3)).astype("uint8")
        files.append(str(tmp_path / f"ünï {i}.png"))
        Image.fromarray(pixels).save(files[-1])
    return files


def test_captions_become_shifted_token_ids_with_their_mask():
    x, y, weight = PREPROCESSOR(
        {"images": random_images(2), "captions": [["a dog", "the dog"], ["", CAPTIONS[1]]]}
    )
    assert x["images"].shape == (2, *IMAGE_SIZE, 3) and x["images"].dtype == "float32"
    assert x["token_ids"].shape == x["padding_mask"].shape == y.shape == weight.shape == (2, 2, 11)
    assert (x["token_ids"].dtype, x["padding_mask"].dtype, y.dtype, weight.dtype) == (
        "int32",
        "bool",
        "int32",
        "float32",
    )
    [ids] = TOKENIZER.encode_batch(["the dog"])
    length = len(ids) + 1
    assert x["token_ids"][0, 1, :length].tolist() == [TOKENIZER.start_token_id, *ids]
    assert y[0, 1, :length].tolist() == [*ids, TOKENIZER.end_token_id]
    assert (
        x["padding_mask"][0, 1].tolist() == weight[0, 1].tolist() == [True] * length + [False] * (11 - length)
    )
    assert y[1, 0, 0] == TOKENIZER.end_token_id and weight[1, 0].sum() == 1
    assert y[1, 1, -1] == TOKENIZER.end_token_id  # cut, and still ended


def test_a_single_caption_for_each_image_is_one_text():
    x, y, _ = PREPROCESSOR({"images": random_images(2), "captions": ["a dog", "two cats"]})
    assert x["token_ids"].shape == y.shape == (2, 1, 11)


def test_paths_and_arrays_of_any_size_are_read(paths):
    arrays = [np.asarray(Image.open(path)) for path in paths]
    from_paths, from_arrays = PREPROCESSOR.prepare_images(paths), PREPROCESSOR.prepare_images(arrays)
    assert from_paths.shape == (3, *IMAGE_SIZE, 3)
    np.testing.assert_array_equal(from_paths, from_arrays)
    np.testing.assert_array_equal(from_paths[0], arrays[0])  # of the right size already
    assert PREPROCESSOR.prepare_images([]).shape == (0, *IMAGE_SIZE, 3)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(ImageError, match="nowhere"):
        PREPROCESSOR.prepare_images([tmp_path / "nowhere.png"])


def test_images_with_different_numbers_of_captions_are_refused():
    with pytest.raises(ValueError, match=r"as many texts for each image; received \[1, 2\]"):
        PREPROCESSOR({"images": random_images(2), "captions": [["a dog"], ["two", "cats"]]})


def assert_same(left, right):
    for a, b in zip(keras.tree.flatten(left), keras.tree.flatten(right), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
        assert np.asarray(a).dtype == np.asarray(b).dtype


@pytest.mark.parametrize("captions", [CAPTIONS[:3], [["a dog", "é"], ["two", "cats"], ["", "sofa"]]])
def test_a_tf_data_pipeline_gives_the_eager_batch_with_static_shapes(paths, captions):
    for images in (paths, random_images(3)):
        data = tf.data.Dataset.from_tensor_slices({"images": images, "captions": captions})
        data = data.batch(3, drop_remainder=True).map(PREPROCESSOR)
        texts = (3, np.array(captions).reshape(3, -1).shape[1], 11)
        x, y, weight = data.element_spec
        assert (x["images"].shape, x["token_ids"].shape, x["padding_mask"].shape) == (
            (3, 9, 15, 3),
            texts,
            texts,
        )
        assert y.shape == weight.shape == texts
        [batch] = data.as_numpy_iterator()
        assert_same(batch, PREPROCESSOR({"images": images, "captions": captions}))


def test_prompts_begin_behind_the_start_token_and_are_given():
    x = PREPROCESSOR.generate_preprocess(
        {"images": random_images(2), "prompts": ["a dog", ""]}, sequence_length=9
    )
    [ids] = TOKENIZER.encode_batch(["a dog"])
    given = [TOKENIZER.start_token_id, *ids]
    assert x["token_ids"][0].tolist() == given + [TOKENIZER.pad_token_id] * (9 - len(given))
    assert x["padding_mask"].sum(1).tolist() == [len(given), 1]


def test_one_prompt_is_for_all_images_and_another_number_than_theirs_is_refused():
    images = random_images(2)
    one = PREPROCESSOR.generate_preprocess({"images": images, "prompts": "a dog"}, sequence_length=9)
    two = PREPROCESSOR.generate_preprocess({"images": images, "prompts": ["a dog"] * 2}, sequence_length=9)
    assert one["token_ids"].tolist() == two["token_ids"].tolist()
    with pytest.raises(ValueError, match="one for each of the 2 images, or one text for all; received 3"):
        PREPROCESSOR.generate_preprocess({"images": images, "prompts": ["a"] * 3}, sequence_length=9)


def test_a_prompt_without_room_for_a_caption_is_refused():
    with pytest.raises(ValueError, match=r"must leave room.*of 5 are taken"):
        PREPROCESSOR.generate_preprocess(
            {"images": random_images(1), "prompts": ["a dog runs on"]}, sequence_length=5
        )


def test_generated_tokens_become_text_up_to_their_mask():
    [ids] = TOKENIZER.encode_batch(["two cats"])
    row = [TOKENIZER.start_token_id, *ids, TOKENIZER.end_token_id, 5, 6]
    mask = [True] * (len(row) - 2) + [False] * 2
    assert PREPROCESSOR.generate_postprocess(
        {"token_ids": np.array([row]), "padding_mask": np.array([mask])}
    ) == ["two cats"]


def test_a_preprocessor_comes_back_from_its_config():
    preprocessor = ImageCaptionerPreprocessor(TOKENIZER, (7, 12), resize="pad", sequence_length=19)
    again = ImageCaptionerPreprocessor.from_config(preprocessor.get_config())
    assert again.image_transform == preprocessor.image_transform
    assert again.sequence_length == 19


CHILD = """
import tensorflow as tf
from captioner.model import ImageCaptionerPreprocessor
from captioner.text import CaptionTokenizer

tokenizer = CaptionTokenizer({vocabulary!r}, {merges!r}, **{tokens!r})
preprocessor = ImageCaptionerPreprocessor(tokenizer, (9, 15), sequence_length=11)
inputs = {{"images": [{path!r}] * 4000, "captions": ["a dog"] * 4000}}
dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(2).map(preprocessor, num_parallel_calls=2).prefetch(50)
batches = iter(dataset)  # a global: it is still alive when the interpreter ends
next(batches)
"""


def test_a_process_that_leaves_a_pipeline_half_read_ends(paths, tmp_path):
    TOKENIZER.save_assets(str(tmp_path))
    code = CHILD.format(
        vocabulary=str(tmp_path / "vocabulary.json"),
        merges=str(tmp_path / "merges.txt"),
        tokens={
            name: TOKENIZER.get_config()[name]
            for name in ("special_tokens", "start_token", "end_token", "pad_token")
        },
        path=paths[0],
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=90, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
