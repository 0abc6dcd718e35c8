"""Contact sheets are drawn whatever the photos and texts are."""

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation import SheetRow, contact_sheet


def photo(colour, height=30, width=50):
    return np.full((height, width, 3), colour, "uint8")


def test_photos_stand_in_reading_order_with_text_below(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    rows = [SheetRow(photo(colour), ("a caption",)) for colour in colours]
    contact_sheet(rows, tmp_path / "sheet.png", num_columns=2, tile_size_px=100)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    places = [np.argwhere(np.abs(sheet - colour).sum(-1) < 5).mean(0) for colour in colours]
    assert sheet.shape[1] == 10 + 2 * 110
    assert places[0][0] == places[1][0] < places[2][0]
    assert places[0][1] == places[2][1] < places[1][1]
    text = sheet[10 + 100 + 4 : 10 + 100 + 4 + 19, 10:110]
    assert (text.sum(-1) < 200).any()


def test_a_bad_photo_becomes_a_grey_tile_that_shows_the_error(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    bad = [tmp_path / "broken.jpg", tmp_path / "absent.jpg", np.zeros((2, 2, 9, 1), "uint8")]
    contact_sheet([SheetRow(image, ("text",)) for image in bad], tmp_path / "sheet.png", tile_size_px=120)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for number in range(3):
        tile = sheet[10:130, 10 + number * 130 : 130 + number * 130]
        assert (tile == 211).all(-1).mean() > 0.5  # Light grey.
        assert (tile.sum(-1) < 200).any()  # With writing on it.


@pytest.mark.parametrize(
    "text", ["", "x" * 5000, "\ud83d \x00 \n\n", "\u72d7 \u0438 \U0001f600 \u0627", "a " * 3000]
)
def test_any_text_can_be_drawn_and_stays_within_bounds(tmp_path, text):
    contact_sheet([SheetRow(photo(9), (text,))], tmp_path / "sheet.png", headline=text, tile_size_px=64)
    width, height = Image.open(tmp_path / "sheet.png").size
    assert width == 84 and height >= 84


def test_an_extreme_shape_keeps_at_least_a_pixel(tmp_path):
    contact_sheet([SheetRow(photo(0, 1, 4000))], tmp_path / "sheet.png", tile_size_px=64)
    assert np.asarray(Image.open(tmp_path / "sheet.png")).min() == 0


def test_a_sheet_without_photos_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`rows` must hold 1 to 1000"):
        contact_sheet([], tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def test_letters_with_accents_and_of_other_scripts_are_not_drawn_as_boxes(tmp_path):
    texts = ["caf\u00e9", "caf\u00df", "\u043a\u043e\u0442", "\u0433\u043e\u0434"]
    contact_sheet([SheetRow(photo(9), (text,)) for text in texts], tmp_path / "sheet.png", tile_size_px=64)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    drawn = {sheet[78:, 10 + 74 * number : 74 + 74 * number].tobytes() for number in range(4)}
    assert len(drawn) == 4
