"""How a file becomes an RGB image: every kind has one rule, and what is refused says why."""

import io
import os
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dbbench.data.decoding import PictureError, decode_picture, known_formats, read_bytes

RED, WHITE = (200, 30, 60), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int] = (32, 24)) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def corner(content: bytes) -> tuple[int, ...]:
    image = decode_picture(content)
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def test_an_rgb_png_keeps_every_pixel() -> None:
    assert decode_picture(saved(noise())).tobytes() == noise().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_refused(kind: str) -> None:
    content = saved(noise((200, 200)), kind)
    with pytest.raises(PictureError, match=r"^is (truncated|damaged) \(") as caught:
        decode_picture(content[: len(content) // 2])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<html>not found</html>", "is not an image, or none of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "is (not an image|damaged)"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=f"^{reason}"):
        decode_picture(content)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="^is missing$"):
        read_bytes(tmp_path / "none.png")
    with pytest.raises(PictureError, match="^is not a file$"):
        read_bytes(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(PictureError, match="^is not a file$"):
        read_bytes(tmp_path / "pipe.png")


def test_grey_palette_and_two_colours_become_rgb() -> None:
    assert corner(saved(Image.new("L", (9, 9), 77))) == (77, 77, 77)
    assert corner(saved(Image.new("1", (9, 9), 1))) == WHITE
    assert corner(saved(Image.new("RGB", (9, 9), RED).quantize(4))) == RED
    assert corner(saved(Image.new("RGB", (9, 9), RED).quantize(4), "GIF")) == RED


def test_cmyk_is_read_as_ink() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        assert corner(saved(ink, kind)) == pytest.approx((255, 0, 0), abs=3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode_picture(saved(Image.fromarray(ramp), kind)))
        assert np.array_equal(found[..., 0].ravel(), np.arange(256))
        assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white_are_refused(mode: str) -> None:
    with pytest.raises(PictureError, match=f"mode {mode}, in which white is not defined"):
        decode_picture(saved(Image.new(mode, (9, 9), 3), "TIFF"))


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (9, 9), (*RED, 0))
    assert corner(saved(clear)) == WHITE
    assert corner(saved(Image.new("RGBA", (9, 9), (*RED, 255)))) == RED
    half = corner(saved(Image.new("RGBA", (9, 9), (*RED, 128))))
    assert half == pytest.approx([(a + b) / 2 for a, b in zip(RED, WHITE, strict=True)], abs=1)
    assert corner(saved(Image.new("LA", (9, 9), (40, 0)))) == WHITE
    assert corner(saved(Image.new("LA", (9, 9), (40, 255)))) == (40, 40, 40)
    # A palette in which one colour is transparent, as a number and as a list of alphas.
    palette = Image.new("RGB", (9, 9), RED).quantize(4)
    index = palette.getpixel((0, 0))
    assert isinstance(index, int)
    assert corner(saved(palette, transparency=index)) == WHITE
    alphas = bytearray(b"\xff" * (index + 1))
    alphas[index] = 0
    assert corner(saved(palette, transparency=bytes(alphas))) == WHITE
    # A colour that stands for "transparent" in an RGB PNG.
    assert corner(saved(Image.new("RGB", (9, 9), RED), transparency=RED)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, (0, 0, 255))]
    options = {"save_all": True, "append_images": frames[1:]}
    if kind == "WEBP":
        options["lossless"] = True
    assert corner(saved(frames[0], kind, **options)) == RED


def test_exif_rotation_is_applied_and_a_broken_block_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    assert decode_picture(saved(noise((32, 24)), exif=exif)).size == (24, 32)
    broken = saved(noise((32, 24)), "JPEG", exif=b"Exif\0\0nonsense" * 3)
    assert decode_picture(broken).size == (32, 24)


def test_a_profile_is_converted_to_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Its own output profile is the identity: a picture written by dbbench reads as it was.
    assert decode_picture(saved(noise(), icc_profile=srgb)).tobytes() == noise().tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    grey = corner(saved(Image.new("LAB", (9, 9), (128, 128, 128)), "TIFF", icc_profile=lab))
    assert grey == pytest.approx((119, 119, 119), abs=2)


def test_a_profile_that_does_not_fit_counts_as_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (lab, b"not a profile at all"):
        assert corner(saved(Image.new("RGB", (9, 9), RED), icc_profile=profile)) == RED
        assert corner(saved(Image.new("RGBA", (9, 9), (*RED, 255)), icc_profile=profile)) == RED


def test_tiny_and_endless_pictures_are_refused() -> None:
    for size in ((1, 1), (1, 500), (7, 8)):
        with pytest.raises(PictureError, match="each side needs 8 px or more"):
            decode_picture(saved(Image.new("RGB", size)))
    assert decode_picture(saved(noise((8, 8)))).size == (8, 8)
    with pytest.raises(PictureError, match="its sides differ by a factor over 100"):
        decode_picture(saved(Image.new("RGB", (8, 808))))


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # up to 1.2 GB in RGB
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    with pytest.raises(PictureError, match=r"89,478,485"):
        decode_picture(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_long_panorama_of_20000_pixels_is_read() -> None:
    assert decode_picture(saved(Image.new("1", (20_000, 200)))).size == (20_000, 200)


def chunk(name: bytes, data: bytes, *, wrong: bool = False) -> bytes:
    checksum = zlib.crc32(name + data) ^ wrong
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def raw_png(depth: int, kind: int, row: bytes, *beside: bytes, after: bytes = b"") -> bytes:
    """Return a PNG of 8 equal rows of 16 pixels, with chunks before and after its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * 8))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(beside) + pixels + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(depth: int) -> None:
    top = 2**depth - 1
    for clear, other in ((0, 1), (1, 0), (top, top // 2)):
        bits = "".join(format(value, f"0{depth}b") for value in [clear, other] * 8)
        row = int(bits, 2).to_bytes(len(bits) // 8)
        content = raw_png(depth, 0, row, chunk(b"tRNS", struct.pack(">H", clear)))
        image = decode_picture(content)
        assert image.getpixel((0, 0)) == WHITE
        assert image.getpixel((1, 0)) == (round(other * 255 / top),) * 3


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    clear, other = (1000, 40000, 65535), (25700, 51400, 771)
    row = struct.pack(">6H", *clear, *other) * 8
    image = decode_picture(raw_png(16, 2, row, chunk(b"tRNS", struct.pack(">3H", *clear))))
    assert image.getpixel((0, 0)) == WHITE
    assert image.getpixel((1, 0)) == (100, 200, 3)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"tEXt", b"parameters\0a dog", wrong=True),
        chunk(b"eXIf", b"nonsense", wrong=True),
        chunk(b"iCCP", b"name\0\x05nonsense"),
        chunk(b"pHYs", b"\0"),
        chunk(b"acTL", b"\0"),
    ],
)
def test_trouble_beside_the_pixels_of_a_png_is_none_in_them(bad: bytes) -> None:
    row = bytes(RED) * 16
    assert corner(raw_png(8, 2, row, bad)) == RED
    assert corner(raw_png(8, 2, row, after=bad)) == RED
    damaged = raw_png(8, 2, row, bad).replace(b"IDATx", b"IDATy")
    with pytest.raises(PictureError):
        decode_picture(damaged)


def test_a_large_text_leaves_orientation_and_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    text = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000))
    content = saved(noise((32, 24)), exif=exif)
    header = 8 + 25  # signature and IHDR
    assert decode_picture(content[:header] + text + content[header:]).size == (24, 32)
    clear = raw_png(8, 2, bytes(RED) * 16, text, chunk(b"tRNS", struct.pack(">3H", *RED)))
    assert corner(clear) == WHITE


@pytest.mark.parametrize(
    ("marker", "data"),
    [(0xE0, b"JFIF"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\0x")],
)
def test_trouble_beside_the_pixels_of_a_jpeg_is_none_in_them(marker: int, data: bytes) -> None:
    whole = saved(Image.new("RGB", (16, 16), RED), "JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    assert corner(whole[:2] + segment + whole[2:]) == corner(whole)


def test_heic_is_read_where_its_decoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 400

    def register() -> None:
        def opened(stream: io.BytesIO, name: str = "") -> Image.Image:
            return Image.new("RGB", (16, 16), RED)

        monkeypatch.setitem(Image.OPEN, "HEIF", (opened, lambda prefix: prefix[4:8] == b"ftyp"))
        monkeypatch.setattr(Image, "ID", [*Image.ID, "HEIF"])

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    known_formats.cache_clear()
    with pytest.raises(PictureError, match="is HEIC; install the package pillow-heif"):
        decode_picture(content)
    decoder = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", decoder)
    known_formats.cache_clear()
    try:
        assert corner(content) == RED
    finally:
        known_formats.cache_clear()
