"""`captioner caption --attention` with a tiny captioner."""

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import random_images, tiny_captioner

from tools.attention import picture_name
from tools.caption import CaptionCommand, caption
from tools.errors import UsageError


def test_each_photo_has_a_picture_of_its_best_caption(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, drawn = tiny_captioner(), []
    monkeypatch.setattr(
        "captioner.evaluation.attention_strip.attention_strip",
        lambda view, words, path, headline: drawn.append((view.shape, words, path, headline)),
    )
    names = [f"{number}.png" for number in range(3)]
    for name, pixels in zip(names, random_images(3), strict=True):
        Image.fromarray(pixels).resize((20, 30)).save(name)
    command = CaptionCommand(
        inputs=tuple(names), max_length=8, num_captions=2, attention="out/maps", attention_layer=1
    )
    assert caption(command, lambda preset: model) == 0
    said = capsys.readouterr().err
    assert len(drawn) + said.count("no word") == 3 and drawn
    for shape, words, path, headline in drawn:
        assert shape == (30, 20, 3) and path.parent.name == "maps"
        assert [word for word, _ in words] == headline.split()
        for _, cells in words:
            assert cells.shape == (3, 5)
            np.testing.assert_allclose(cells.sum(), 1.0, atol=1e-5)


def test_a_layer_that_is_not_there_is_refused_before_captioning(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    command = CaptionCommand(
        inputs=(str(tmp_path / "a.png"),), attention=str(tmp_path / "out"), attention_layer=7
    )
    with pytest.raises(ValueError, match=r"from 0 to 1.*layer=7"):
        caption(command, lambda preset: tiny_captioner())
    assert not (tmp_path / "out").exists()


def test_a_layer_without_a_folder_is_a_usage_error():
    with pytest.raises(UsageError, match="--attention FOLDER"):
        CaptionCommand(inputs=("a.jpg",), attention_layer=0)


def test_names_of_pictures_differ_and_never_leave_the_folder(tmp_path):
    names = [
        "a/b.jpg",
        "a_b.jpg",
        "a/b.png",
        "A/b.jpg",
        "../../b.jpg",
        "/etc/b",
        "..",
        ".",
        "",
        "b\udcff.jpg",
        "x" * 300,
    ]
    pictures = [picture_name(name) for name in names]
    assert len({name.lower() for name in pictures}) == len(names)
    for name in pictures:
        (tmp_path / name).write_bytes(b"")
        assert (tmp_path / name).resolve().parent == tmp_path
    assert pictures[0].startswith("b-") and pictures[0] == picture_name("a/b.jpg")
