"""Tables of captions, and what commands say of the rows that they cannot use."""

import pytest

from tools.errors import UsageError
from tools.tables import read_caption_table


def write_table(folder, rows) -> None:
    (folder / "t.csv").write_text("image,caption\n" + "".join(f"{row}\n" for row in rows))


def test_every_row_that_is_left_out_is_named_and_counted(tmp_path, capsys):
    write_table(tmp_path, ["a.jpg,a dog", "a.jpg,", ",a cat", "b.jpg,two cats"])
    records = read_caption_table(tmp_path / "t.csv", None)
    assert [image.captions for image in records.images] == [("a dog",), ("two cats",)]
    first, second, counted = capsys.readouterr().err.splitlines()
    assert first == "captioner: left out: row 3: empty caption"
    assert second.startswith("captioner: left out: row 4: ")
    assert counted == f"captioner: 2 captions of {tmp_path / 't.csv'} left out"


def test_of_many_the_rest_is_counted(tmp_path, capsys):
    write_table(tmp_path, ["a.jpg,a dog", *["a.jpg,"] * 23])
    read_caption_table(tmp_path / "t.csv", None)
    *named, counted = capsys.readouterr().err.splitlines()
    assert len(named) == 20 and "row 3" in named[0] and "row 22" in named[-1]
    assert "23 captions" in counted and counted.endswith("3 rows more than are named above")


@pytest.mark.parametrize(("rows", "message"), [(["a.jpg,"], "no usable captions"), (None, "must be a file")])
def test_a_table_without_captions_is_refused(rows, message, tmp_path):
    if rows is not None:
        write_table(tmp_path, rows)
    with pytest.raises(UsageError, match=message):
        read_caption_table(tmp_path / "t.csv", None)
