"""Reads the markers of a JPEG without decoding it: is it whole, and of the kind that every decoder reads?"""

import dataclasses
import re

_END, _START_OF_SCAN = 0xD9, 0xDA
_HUFFMAN_TABLES, _QUANTIZATION_TABLES, _NOTES, _ADOBE = 0xC4, 0xDB, 0xE1, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN_TABLES, 0xC8, 0xCC}
_COMMON_FRAMES = frozenset((0xC0, 0xC1, 0xC2))  # baseline, extended, progressive; all with Huffman codes
_NO_SEGMENT = frozenset((0x00, 0x01, *range(0xD0, 0xD9), 0xFF))
_ARITHMETIC_CONDITIONS = 0xCC
_ADOBE_YCBCR = 1
_ADOBE_TRANSFORM = 11  # where its number stands in the segment
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclasses.dataclass(frozen=True)
class JpegHeader:
    """What the markers of a common JPEG say."""

    height: int
    """Rows as they are stored."""
    width: int
    """Columns as they are stored."""
    may_be_turned: bool
    """True if there are notes that could say that the picture lies on its side."""


def read_header(data: bytes) -> JpegHeader | None:
    """What the markers say of a JPEG whose segments are whole up to its end mark, and that needs no rare feature; else None.

    Common are grey and YCbCr, 8 bits, Huffman codes, baseline or progressive, with chroma sampled once a
    unit. Decoders differ in the rest, and in what they make of a JPEG without its end.

    Args:
        data: bytes. What is behind the end mark does not count.

    References:
        - [ITU-T T.81](https://www.w3.org/Graphics/JPEG/itu-t81.pdf), annex B
    """
    if data[:2] != b"\xff\xd8":
        return None
    position, seen, frame = 2, set(), None
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1] if position + 1 < len(data) else 0
        if marker == 0xFF:  # a marker may be preceded by any number of these
            position += 1
            continue
        if marker == _END:
            if _START_OF_SCAN not in seen or frame is None:
                return None
            height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
            return JpegHeader(height, width, may_be_turned=_NOTES in seen)
        start = position + 4
        end = position + 2 + int.from_bytes(data[position + 2 : start])
        if marker in _NO_SEGMENT or end < start or end > len(data):
            return None
        segment = data[start:end] if marker in _FRAMES or marker == _ADOBE else b""
        if marker in _FRAMES and (not _is_common_frame(marker, segment) or not _FRAMES.isdisjoint(seen)):
            return None
        if marker == _ARITHMETIC_CONDITIONS or (marker == _ADOBE and not _is_ycbcr(segment)):
            return None
        frame = segment if marker in _FRAMES else frame
        seen.add(marker)
        position = end
        if marker == _START_OF_SCAN:
            following = _MARKER_IN_SCAN.search(data, position)
            if following is None or not {_HUFFMAN_TABLES, _QUANTIZATION_TABLES} <= seen:
                return None
            position = following.start()
    return None


def _is_common_frame(marker: int, segment: bytes) -> bool:
    if marker not in _COMMON_FRAMES or len(segment) < 6 or segment[0] != 8:
        return False
    num_components = segment[5]
    if num_components == 1:
        return True
    components = [segment[6 + 3 * n : 9 + 3 * n] for n in range(3)]
    if num_components != 3 or len(components[2]) != 3:
        return False
    is_rgb = bytes(component[0] for component in components) == b"RGB"
    return not is_rgb and components[1][1] == components[2][1] == 0x11


def _is_ycbcr(segment: bytes) -> bool:
    if not segment.startswith(b"Adobe") or len(segment) <= _ADOBE_TRANSFORM:
        return True  # another program's notes
    return segment[_ADOBE_TRANSFORM] == _ADOBE_YCBCR
