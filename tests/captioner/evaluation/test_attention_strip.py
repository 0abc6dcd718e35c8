"""Attention pictures: one cell for each word, with the heat where the map says."""

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation.attention_strip import MARGIN_PX, attention_strip, word_maps
from captioner.text import train_tokenizer

GREY = np.full((40, 60, 3), 128, "uint8")


def one_cell(row, column):
    cells = np.zeros((3, 5), "float32")
    cells[row, column] = 1.0
    return cells


def read(path):
    return np.asarray(Image.open(path)).astype(float)


def test_the_heat_is_where_the_map_says_and_each_word_has_a_cell(tmp_path):
    words = [("a", one_cell(0, 4)), ("dog", one_cell(2, 0)), ("runs", one_cell(1, 2))]
    attention_strip(GREY, words, tmp_path / "a.jpg", num_columns=2, cell_width_px=150)
    strip = read(tmp_path / "a.jpg")
    height, text = 100, 19  # 40 x 60 px at a width of 150, and a line for the word
    assert strip.shape == (MARGIN_PX + 2 * (height + text + MARGIN_PX), MARGIN_PX + 2 * (150 + MARGIN_PX), 3)
    for number, (_, cells) in enumerate(words):
        top = MARGIN_PX + (number // 2) * (height + text + MARGIN_PX)
        left = MARGIN_PX + (number % 2) * (150 + MARGIN_PX)
        cell = strip[top : top + height, left : left + 150].sum(-1)
        row, column = np.unravel_index(cell.argmax(), cell.shape)
        assert cells[row * 3 // height, column * 5 // 150] == 1.0
        assert (strip[top + height : top + height + text, left : left + 150] < 100).any(), (
            "no word is written"
        )
    empty = strip[MARGIN_PX + height + text + MARGIN_PX :, MARGIN_PX + 150 + MARGIN_PX :]
    assert empty.min() > 200, "there are more cells than words"


def test_a_word_of_several_tokens_has_their_mean():
    tokenizer = train_tokenizer(["a dog", "a dog"], 259)  # no merges: each letter is a token
    token_ids = [*tokenizer.tokenize("a dog"), tokenizer.end_token_id]
    maps = np.arange(len(token_ids) * 6, dtype="float32").reshape(-1, 2, 3)
    [(first, of_first), (second, of_second)] = word_maps(tokenizer, token_ids, maps)
    assert (first, second) == ("a", "dog") and len(token_ids) == 6
    np.testing.assert_array_equal(of_first, maps[0])
    np.testing.assert_allclose(of_second, maps[1:5].mean(axis=0))  # the space belongs to the word behind it


@pytest.mark.parametrize("image", [np.zeros((1, 3000, 3), "uint8"), np.zeros((3000, 1, 3), "uint8")])
def test_extreme_shapes_and_texts_are_drawn(tmp_path, image):
    words = [("x" * 500, np.zeros((3, 5)))] * 3
    attention_strip(image, words, tmp_path / "a.jpg", headline="\ud83d " + "word " * 300, cell_width_px=16)
    assert Image.open(tmp_path / "a.jpg").width < 100


def test_no_words_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="1 to 200 words; received 0"):
        attention_strip(GREY, [], tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
