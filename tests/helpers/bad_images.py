"""Images of every odd kind, as samples of a shard."""

import struct
import zlib

import numpy as np
from bad_shards import CAPTION, encoded, jpeg, picture, sample_kind
from PIL import Image

_UNDECODABLE = "undecodable image"
_JPEG, _PNG = jpeg(), encoded(picture(), "PNG")
_FRAME = _JPEG.index(b"\xff\xc0")
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(2, 20, 32), "JPEG", exif=exif)


def _png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that are not there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _PNG[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + _PNG[33:]


def _animated() -> bytes:
    frames = [picture(seed) for seed in (3, 4)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def _bomb() -> bytes:
    """Half a gigabyte of zeros in 30 kB, honest about its size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 17_000, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000), 9)
    chunks = [header, data, b"IEND"]
    return _PNG[:8] + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def _changed(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


_SIXTEEN_BITS = Image.fromarray(np.arange(1024, dtype="uint16").reshape(32, 32) * 60)

_GOOD = {
    "grey JPEG": ("jpg", encoded(picture().convert("L"), "JPEG")),
    "CMYK JPEG": ("jpg", encoded(picture().convert("CMYK"), "JPEG")),
    "RGB JPEG": ("jpg", _JPEG[:2] + _ADOBE_RGB + _JPEG[2:]),
    "progressive JPEG": ("jpg", encoded(picture(), "JPEG", progressive=True)),
    "JPEG with restart markers": ("jpg", encoded(picture(), "JPEG", restart_marker_blocks=1)),
    "JPEG with garbage behind": ("jpg", _JPEG + b"\0garbage\xff" * 99),
    "JPEG with a flipped byte": ("jpg", _changed(_JPEG, len(_JPEG) - 40, 0x55)),
    "rotated by EXIF": ("jpg", _rotated()),
    "broken EXIF": ("jpg", encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "RGBA PNG": ("png", encoded(picture().convert("RGBA"), "PNG")),
    "palette PNG": ("png", encoded(picture().quantize(8), "PNG", transparency=1)),
    "1-bit PNG": ("png", encoded(picture().convert("1"), "PNG")),
    "16-bit PNG": ("png", encoded(_SIXTEEN_BITS, "PNG")),
    "WebP": ("webp", encoded(picture(), "WEBP")),
    "BMP": ("bmp", encoded(picture(), "BMP")),
    "TIFF": ("tiff", encoded(picture(), "TIFF")),
    "animated GIF": ("gif", _animated()),
    "1 pixel": ("jpg", encoded(picture(5, 1, 1), "JPEG")),
    "20,000 pixels wide": ("jpg", encoded(picture(6, 2, 20_000), "JPEG")),
    "PNG called .jpg": ("jpg", _PNG),
    "JPEG called .png": ("png", _JPEG),
    "upper-case ending": ("JPG", _JPEG),
    "ending .jpeg": ("jpeg", _JPEG),
}
_BAD = {
    "empty image": ("jpg", b""),
    "garbage image": ("jpg", bytes(range(256)) * 8),
    "HTML called .jpg": ("jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "half a JPEG": ("jpg", _JPEG[: len(_JPEG) // 2]),
    "JPEG without its last byte": ("jpg", _JPEG[:-1]),
    "JPEG header alone": ("jpg", _JPEG[: _FRAME + 30]),
    "garbage before a JPEG": ("jpg", b"garbage" + _JPEG),
    "12-bit JPEG": ("jpg", _changed(_JPEG, _FRAME + 4, 12)),
    "half a PNG": ("png", _PNG[: len(_PNG) // 2]),
    "PNG with a flipped byte": ("png", _changed(_PNG, len(_PNG) // 2, _PNG[len(_PNG) // 2] ^ 1)),
    "PNG without pixels": ("png", _png_claiming(0, 5)),
    "20,000 x 20,000 pixels": ("png", _png_claiming(20_000, 20_000)),
    "decompression bomb": ("png", _bomb()),
    "half a WebP": ("webp", encoded(picture(), "WEBP")[:60]),
    "half a GIF": ("gif", _animated()[:90]),
    "32-bit TIFF": ("tif", encoded(picture().convert("F"), "TIFF")),
    "unknown format": ("jpg", encoded(picture(), "PPM")),
}

IMAGE_KINDS = (
    *(
        sample_kind(name, (f"odd.{ending}", data), ("odd.txt", CAPTION))
        for name, (ending, data) in _GOOD.items()
    ),
    *(
        sample_kind(name, (f"odd.{ending}", data), ("odd.txt", CAPTION), reason=_UNDECODABLE)
        for name, (ending, data) in _BAD.items()
    ),
)
