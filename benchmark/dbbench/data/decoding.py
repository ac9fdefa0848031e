"""Decodes an image file to an RGB image; used for reference photographs and by the feature store.

One rule for each kind of file, so that a file gives the same pixels everywhere:

    zero bytes, truncated, not an image   rejected
    PNG JPEG WebP GIF BMP TIFF PPM AVIF   decoded, whatever the name is; all others rejected
    HEIC                                  decoded where the package pillow-heif is installed
    metadata of PNG and JPEG              trouble in it (a wrong checksum, 2 MB of text) is ignored
    over 89 megapixels (20,000 x 20,000)  rejected by its header, before decoding
    under 8 px on a side (1 x 1)          rejected: too small for a network's input
    longer than 100 times its width       rejected: too large once its short side is resized
    EXIF orientation                      turned upright; an unreadable EXIF block is ignored
    ICC profile                           converted to sRGB, perceptual; if it is unreadable or does
                                          not fit the pixels, it is ignored, as in browsers
    transparent, palette or not           composited onto white; a transparent grey too
    palette, grey, black and white, YCbCr converted to RGB
    CMYK                                  by its profile, or without one by Pillow's simple formula
    16 bits a channel                     scaled to 8: grey is divided by 257 and rounded,
                                          colour keeps its high byte (a limit of Pillow)
    floating point, 32-bit integers       rejected: their value of white is unknown
    animated, several pages               the first frame
"""

from __future__ import annotations

import importlib
import io
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from dbbench.data.metadata import only_pixels, transparent_value

RULES = 2
"""Increase it when a file gives other pixels; part of every cached feature's key."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF")
"""Formats that Pillow may open. For an EPS it would start Ghostscript."""
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""The brands of HEIC and HEIF in the first box of a file (ISO/IEC 23008-12)."""

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte in RGB.
MIN_SIDE = 8
MAX_RATIO = 100


# Pillow's warning is not needed: such files are rejected below, with their size.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(Exception):
    """A file that is not a valid image; the message follows its name: "is empty (0 bytes)"."""


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises PictureError where it cannot be read."""
    if path.exists() and not path.is_file():  # Opening a pipe would block.
        raise PictureError("is not a file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError("is missing") from None
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from None


def decode_picture(content: bytes) -> Image.Image:
    """Return the image in a file's bytes: RGB, upright, sRGB, opaque. Raises PictureError."""
    if not content:
        raise PictureError("is empty (0 bytes)")
    try:
        return _decode(content)
    except PictureError:
        for bare in only_pixels(content):
            with suppress(PictureError):
                return _decode(bare)
        raise


def image_format(stream: IO[bytes]) -> str | None:
    """Return the format of the image that a stream begins with, such as "PNG"; None if it is none.

    Only the header is read. HEIC is recognised without its decoder too.
    """
    if _is_heic(stream.read(12)):
        return "HEIF"
    stream.seek(0)
    try:
        with Image.open(stream, formats=known_formats()) as opened:
            return opened.format
    except Image.DecompressionBombError:  # An image, which decoding refuses by name.
        return "unknown"
    except Exception:  # Other content can raise any exception in Pillow.
        return None


def _decode(content: bytes) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(content), formats=known_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"has more than {MAX_PIXELS:,} pixels, the limit") from None
    except UnidentifiedImageError:
        raise PictureError(_unidentified(content)) from None
    except Exception as error:  # A damaged header can raise any exception in Pillow.
        raise PictureError(f"is damaged ({_reason(error)})") from None
    with opened:
        _check_size(*opened.size)
        if opened.mode in {"F", "I"} or (opened.mode.startswith("I;") and "16" not in opened.mode):
            raise PictureError(
                f"has pixels of mode {opened.mode}, in which white is not defined; save it with 8 "
                "or 16 bits a channel"
            )
        try:
            opened.load()
            if "transparency" in opened.info:  # Pillow's number is not always that of its pixels.
                value = transparent_value(content, opened.info["transparency"])
                opened.info["transparency"] = value
            return _to_rgb(opened)
        except Exception as error:
            word = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise PictureError(f"is {word} ({_reason(error)})") from None


@cache
def known_formats() -> tuple[str, ...]:
    """Return the FORMATS that can be read here: AVIF needs a new Pillow, HEIC a package."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _is_heic(header: bytes) -> bool:
    return header[4:8] == b"ftyp" and header[8:12] in _HEIC


def _unidentified(content: bytes) -> str:
    if _is_heic(content[:12]) and "HEIF" not in known_formats():
        return "is HEIC; install the package pillow-heif to read it, or save it as PNG or JPEG"
    names = (name for name in FORMATS if name not in {"DIB", "HEIF"})
    return f"is not an image, or none of {', '.join(names)}"


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"has {width:,} x {height:,} px; the limit is {MAX_PIXELS:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"has {width:,} x {height:,} px; each side needs {MIN_SIDE} px or more")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureError(
            f"has {width:,} x {height:,} px; its sides differ by a factor over {MAX_RATIO}"
        )


def _to_rgb(opened: Image.Image) -> Image.Image:
    profile = opened.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(opened)
    except Exception:  # The EXIF block is unreadable: ignore it.
        image = opened
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = np.rint(values.astype(np.float64) / 257).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info or image.mode in {"LA", "PA", "RGBA", "La", "RGBa"}:
        return _flatten(image, profile)
    if image.mode in {"P", "1"}:
        image = image.convert("RGB")
    return _to_srgb(image, profile)


def _flatten(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Composite onto white, after converting the colours."""
    if image.mode in {"La", "RGBa"}:  # Premultiplied; Pillow converts each to one mode only.
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    # A grey profile fits grey pixels only.
    colours = image.convert("L") if image.mode == "LA" else rgba.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(_to_srgb(colours, profile), mask=alpha)
    return white


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.PERCEPTUAL,
                outputMode="RGB",
            )
            if converted is not None:
                return converted
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
