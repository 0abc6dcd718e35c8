"""Captions of every odd kind, as samples of a shard."""

import json

from bad_shards import CAPTION, jpeg, sample_kind

_IMAGE = ("odd.jpg", jpeg())
_TOO_LONG, _NOT_UTF8 = "caption too long", "text is not UTF-8"


def _txt(name: str, text: bytes, reason: str = ""):
    return sample_kind(name, _IMAGE, ("odd.txt", text), reason=reason)


def _json(name: str, content, reason: str = "", text: bytes | None = None, **options):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    files = [_IMAGE, ("odd.json", data)] + ([] if text is None else [("odd.txt", text)])
    return sample_kind(name, *files, reason=reason, **options)


CAPTION_KINDS = (
    sample_kind("no caption", _IMAGE, reason="no caption"),
    _txt("empty caption", b"", "empty caption"),
    _txt("caption of spaces", b" \r\n\t ", "empty caption"),
    _txt("binary caption", jpeg()[:300], _NOT_UTF8),
    _txt("latin-1 caption", "ein Hund im Café".encode("latin-1"), _NOT_UTF8),
    _txt("UTF-16 caption", CAPTION.decode().encode("utf-16"), _NOT_UTF8),
    _txt("NUL in the caption", b"a dog\0on a sofa", "NUL in the caption"),
    _txt("very long caption", b"dog " * 5000, _TOO_LONG),
    _txt("caption of two megabytes", b"dog " * 500_000, _TOO_LONG),
    _txt("caption of many lines", b"a dog\non\r\na sofa\n"),
    _txt("caption with a byte-order mark", b"\xef\xbb\xbf" + CAPTION),
    _txt("caption in other scripts", "沙发上的狗 🐶 كلب".encode()),
    _json("caption in the json alone", {"caption": CAPTION.decode()}),
    _json("captions under another name", {"text": ["a dog", "a sofa"]}),
    _json("broken json alone", b'{"caption": "a dog', "unreadable json"),
    _json("broken json beside a good txt", b'{"caption": "a dog', text=CAPTION),
    _json("json that is a list", ["a dog"], "unreadable json"),
    _json("json of a thousand levels", b"[" * 100_000, "unreadable json"),
    _json("json without a caption", {"width": 32}, "no caption"),
    _json("json with null for a caption", {"caption": None}, "no caption"),
    _json("json with half a character", b'{"caption": "a dog \\ud83d"}', _NOT_UTF8),
    _json("empty txt, caption in the json", {"caption": CAPTION.decode()}, text=b""),
    _json(
        "one bad caption among several",
        {"captions": ["a dog", "", "a sofa"]},
        good=("odd",),
        rejected={"odd": "empty caption"},
    ),
)
