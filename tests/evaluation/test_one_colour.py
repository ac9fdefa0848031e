"""An image of one colour is known as such in every mode and format, and no other is."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbbench.errors import UserError
from dbbench.evaluation.features import FeatureStore
from dbbench.evaluation.one_colour import (
    LEVELS,
    Spread,
    is_of_one_colour,
    say_of_one_colour,
    spread,
)


def as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(stream)


@pytest.mark.parametrize("colour", ["black", "white", "grey", "teal"])
def test_every_colour_counts(colour: str) -> None:
    image = Image.new("RGB", (40, 30), colour)
    for same in (image, image.convert("RGBA"), image.quantize(4), as_jpeg(image)):
        assert is_of_one_colour(same)
    assert is_of_one_colour(image.convert("L"))


def test_a_picture_is_not_of_one_colour() -> None:
    ramp = Image.linear_gradient("L")
    assert not is_of_one_colour(ramp)
    black = Image.new("RGB", (64, 64))
    black.putpixel((3, 3), (0, 0, LEVELS + 1))
    assert not is_of_one_colour(black)
    two = Image.new("RGB", (64, 64), "red")
    two.paste("blue", (0, 0, 32, 64))
    assert not is_of_one_colour(two)


def test_the_stores_number_is_that_of_the_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(20, 200, (30, 30, 3), dtype=np.uint8)
    images = [Image.fromarray(noise), Image.new("RGB", (20, 20), "red")]
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    expected = [[spread(image)] for image in images]
    for decoded in (2, 0):  # The second time from the cache.
        store = FeatureStore()
        assert store.encode_images(Spread(), files).vectors.tolist() == expected
        assert store.decoded == decoded
    assert Spread().encode_images(images).tolist() == expected
    assert Spread().encode_images([]).shape == (0, 1)
    with pytest.raises(UserError, match="of images only"):
        Spread().encode_texts(["red"])


def test_the_line_counts() -> None:
    assert say_of_one_colour(1, 8, "images of a").startswith("1 of 8 images of a is of one colour")
    assert say_of_one_colour(2, 8, "images of a").startswith("2 of 8 images of a are of one colour")
