"""Names on a command line become images."""

import io
from pathlib import Path

import pytest

from tools.errors import UsageError
from tools.inputs import ImageInput, find_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with photos at two depths, a hidden one and a note, as the current folder's `photos`."""
    for name in ("b.jpg", "a.PNG", "deep/c.webp", ".hidden.jpg", ".cache/d.jpg", "note.md"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def names(*inputs, stdin="", **kwargs):
    return [image.name for image in find_images(inputs, io.StringIO(stdin), **kwargs)]


def test_a_folder_gives_its_images_at_any_depth_in_order_without_hidden_ones(photos):
    assert names("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/deep/c.webp"]


def test_a_file_is_taken_by_name_whatever_its_ending_and_whether_it_exists(photos):
    assert names("photos/note.md", "gone.jpg") == ["photos/note.md", "gone.jpg"]


def test_a_glob_finds_files_at_any_depth(photos):
    assert names("photos/**/*.[jw]*") == ["photos/b.jpg", "photos/deep/c.webp"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(photos):
    (photos / "x[1].jpg").touch()
    (photos / "x1.jpg").touch()
    assert names("photos/x[1].jpg") == ["photos/x[1].jpg"]


def test_an_image_that_is_named_twice_comes_once(photos):
    assert names("photos/b.jpg", "photos") == ["photos/b.jpg", "photos/a.PNG", "photos/deep/c.webp"]


def test_standard_input_holds_a_path_on_each_line(photos):
    assert names("-", stdin="photos/b.jpg\n\n  photos/a.PNG \n") == ["photos/b.jpg", "photos/a.PNG"]


@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        ("list.txt", "\ufeffb.jpg\ndeep/c.webp\n"),
        ("list.csv", "id,image\n1,b.jpg\n2,deep/c.webp\n"),
        ("list.tsv", "caption\tfile_name\nx\tb.jpg\ny\tdeep/c.webp\n"),
        ("list.csv", "b.jpg\ndeep/c.webp\n"),
        ("list.csv", "whatever\nb.jpg\ndeep/c.webp\n"),
    ],
)
def test_paths_in_a_list_start_from_the_lists_folder(photos, file_name, content):
    (photos / file_name).write_text(content, encoding="utf-8")
    assert find_images([f"photos/{file_name}"], io.StringIO()) == [
        ImageInput("b.jpg", Path("photos/b.jpg")),
        ImageInput("deep/c.webp", Path("photos/deep/c.webp")),
    ]


def test_paths_in_a_list_start_from_the_folder_of_the_flag(photos):
    Path("list.txt").write_text("b.jpg\n")
    (image,) = find_images(["list.txt"], io.StringIO(), images_dir="photos")
    assert image == ImageInput("b.jpg", Path("photos/b.jpg"))


def test_the_column_of_a_table_can_be_named(photos):
    (photos / "list.csv").write_text("image,other\nb.jpg,a.PNG\n")
    assert names("photos/list.csv", image_column="other") == ["a.PNG"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("empty", "holds no file that ends in .jpg"),
        ("photos/*.gif", "no file matches"),
        ("gone.csv", "there is no list"),
        ("photos/blank.txt", "names no image"),
        ("photos/columns.csv", "--image-column NAME"),
        ("-", "standard input"),
    ],
)
def test_an_input_that_means_no_image_is_a_usage_error(photos, word, says):
    Path("empty").mkdir()
    (photos / "blank.txt").write_text("\n\n")
    (photos / "columns.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UsageError, match=says):
        names(word)


def test_a_column_that_the_table_lacks_is_named_with_those_it_has(photos):
    (photos / "list.csv").write_text("image,other\nb.jpg,a.PNG\n")
    with pytest.raises(UsageError, match=r"image, other.*'wrong'"):
        names("photos/list.csv", image_column="wrong")


def test_one_name_for_two_files_is_refused(photos):
    (photos / "list.txt").write_text("b.jpg\n")
    (photos / "deep/list.txt").write_text("b.jpg\n")
    with pytest.raises(UsageError, match=r"two lists name 'b\.jpg'"):
        names("photos/list.txt", "photos/deep/list.txt")
