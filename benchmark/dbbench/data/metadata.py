"""Metadata beside the pixels of PNG and JPEG files, which viewers skip and Pillow trips over.

PNG chunks: PNG specification (W3C, third edition), sections 5.3 and 11.3.
JPEG segments: ITU-T T.81, annex B.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_DEPTH, _COLOUR_TYPE = 24, 25
"""Offsets of bytes in a PNG: bits of a sample, and the kind of colours."""
_GREY, _RGB = 0, 2

_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
"""Texts in a PNG from which Pillow takes the EXIF orientation."""
_APP0, _APP1, _APP2, _APP14, _APP15, _COMMENT, _SCAN = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE, 0xDA
_ADOBE = 16
"""Bytes of an Adobe segment, which says how colours are stored."""


class _Part(NamedTuple):
    """A PNG chunk or a JPEG segment."""

    whole: bytes
    """All its bytes in the file."""
    needed: bool
    """Whether the pixels depend on it."""
    wanted: bool
    """Whether it holds a colour profile or an orientation, and is intact."""


def only_pixels(content: bytes) -> Iterator[bytes]:
    """Yield a PNG or JPEG without most metadata, then without its profile and orientation too.

    A part that no pixel depends on, or that has a wrong checksum, must not make the image damaged.
    Yields nothing for other files.
    """
    if content.startswith(_PNG):
        start, parts = _PNG, list(_chunks(content))
    elif content.startswith(_JPEG):
        start, parts = _JPEG, list(_segments(content))
    else:
        return
    yield start + b"".join(part.whole for part in parts if part.needed or part.wanted)
    yield start + b"".join(part.whole for part in parts if part.needed)


def transparent_value(content: bytes, found: Any) -> Any:
    """Return the colour that is transparent, in the values of Pillow's pixels.

    Pillow scales PNG grey of 2 or 4 bits to 8, and keeps the high byte of 16-bit colours; but it
    leaves the transparent colour `found` as it is in the file. Others are returned as they are.
    """
    if not content.startswith(_PNG):
        return found
    depth, kind = content[_DEPTH], content[_COLOUR_TYPE]
    if kind == _GREY and depth in {2, 4}:
        return found * (255 // (2**depth - 1))
    if kind == _RGB and depth == 16:
        return tuple(value >> 8 for value in found)
    return found


def _chunks(content: bytes) -> Iterator[_Part]:
    """Yield a PNG's chunks. One that is cut off is the last."""
    start = len(_PNG)
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4])
        name, data = content[start + 4 : start + 8], content[start + 8 : end - 4]
        intact = zlib.crc32(name + data) == int.from_bytes(content[end - 4 : end])
        yield _Part(
            content[start:end],
            needed=not name[:1].islower() or name == b"tRNS",
            wanted=intact and (name in {b"iCCP", b"eXIf"} or data.startswith(_ORIENTATION)),
        )
        start = end


def _segments(content: bytes) -> Iterator[_Part]:
    """Yield a JPEG's segments; the scan and all that follows are the last."""
    start = len(_JPEG)
    while start + 4 <= len(content) and content[start] == 0xFF and content[start + 1] != _SCAN:
        marker, end = content[start + 1], start + 2 + int.from_bytes(content[start + 2 : start + 4])
        of_application = _APP0 <= marker <= _APP15
        yield _Part(
            content[start:end],
            needed=end - start >= _ADOBE
            if marker == _APP14
            else not of_application and marker != _COMMENT,
            wanted=marker in {_APP1, _APP2},
        )
        start = end
    yield _Part(content[start:], needed=True, wanted=True)
