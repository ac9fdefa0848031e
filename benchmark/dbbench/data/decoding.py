"""Picture: how a file becomes an RGB image; read by the subjects and by the feature store.

One rule for each kind of file, so that the same file gives the same pixels everywhere:

    zero bytes, truncated, not an image   refused
    PNG JPEG WebP GIF BMP TIFF PPM AVIF   read; nothing else is, whatever its name says
    over 89 megapixels (20,000 x 20,000)  refused from its header, before anything is decoded
    under 8 px on a side (1 x 1)          refused: resized to a network's input it shows nothing
    longer than 100 times its width       refused: resized by its short side it would not fit
    EXIF orientation                      turned upright; an EXIF block that cannot be read is none
    ICC profile                           converted to sRGB, perceptual; one that does not fit the
                                          pixels or cannot be read counts as sRGB, as in browsers
    transparent, palette or not           composited onto white
    palette, grey, black and white, YCbCr brought to RGB
    CMYK                                  by its profile, without one by Pillow's plain formula
    16 bits a channel                     scaled to 8: grey is divided by 257 and rounded,
                                          colour keeps its high byte (Pillow reads no more)
    floating point, 32-bit integers       refused: what is white in them is not known
    animated, several pages               the first frame
"""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

RULES = 1
"""Raised whenever the same file gives other pixels; part of every stored feature's key."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF")
"""What Pillow may try. It would start Ghostscript for an EPS."""
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"}
)
"""How the names of such files end, in lower case; for those who look for images in a folder."""

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte in RGB.
MIN_SIDE = 8
MAX_RATIO = 100


# What Pillow warns of is refused below, with the file's name and its size.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(Exception):
    """A file that gives no image; the message follows the file's name: "is empty (0 bytes)"."""


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises PictureError where it cannot be read."""
    if path.exists() and not path.is_file():  # Opening a pipe would wait for ever.
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
        opened = Image.open(io.BytesIO(content), formats=_known_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(f"is larger than the {MAX_PIXELS:,} pixels that are decoded") from None
    except UnidentifiedImageError:
        raise PictureError(
            f"is not an image, or none of {', '.join(f for f in FORMATS if f != 'DIB')}"
        ) from None
    except Exception as error:  # Pillow's readers raise whatever a damaged header leads to.
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
            return _to_rgb(opened)
        except Exception as error:
            word = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise PictureError(f"is {word} ({_reason(error)})") from None


@cache
def _known_formats() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow has; an older one has no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"has {width:,} x {height:,} px, more than the {MAX_PIXELS:,} that are decoded"
        )
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"has {width:,} x {height:,} px; {MIN_SIDE} a side are the least")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise PictureError(f"has {width:,} x {height:,} px, over {MAX_RATIO} times as long as wide")


def _to_rgb(opened: Image.Image) -> Image.Image:
    profile = opened.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(opened)
    except Exception:  # Its EXIF block cannot be read: as if there were none.
        image = opened
    if image.mode.startswith("I;16"):
        grey = np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info or image.mode in {"LA", "PA", "RGBA", "La", "RGBa"}:
        return _flatten(image, profile)
    if image.mode in {"P", "1"}:
        image = image.convert("RGB")
    return _to_srgb(image, profile)


def _flatten(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Composite onto white, after the colours were converted."""
    if image.mode in {"La", "RGBa"}:  # Multiplied by alpha; Pillow knows one way back each.
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    # A profile of greys fits grey pixels only.
    colours = image.convert("L") if image.mode == "LA" else rgba.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(_to_srgb(colours, profile), mask=alpha)
    return white


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.PERCEPTUAL,
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
