"""Claims about the 30 subjects, their attribution, and how their photographs are read."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dbbench.data.dataset import select_subjects
from dbbench.data.photographs import Photographs, photo_root, prepare_photo
from dbbench.data.subject import Subject, load_subjects
from dbbench.errors import UserError
from dbbench.subjects.parse import main, parse_subjects, render_toml

MakePhotos = Callable[[Path], tuple[Subject, ...]]


def test_data_set_has_30_subjects_15_classes_158_photographs() -> None:
    subjects = load_subjects()
    assert len({subject.name for subject in subjects}) == len(subjects) == 30
    assert len({subject.class_noun for subject in subjects}) == 15
    assert sum(len(subject.photos) for subject in subjects) == 158
    assert {len(subject.photos) for subject in subjects} == {4, 5, 6}


def test_nine_subjects_are_live_and_they_are_the_dogs_and_cats() -> None:
    live = select_subjects(Photographs(), "live")
    assert len(live) == 9
    assert {subject.class_noun for subject in live} == {"dog", "cat"}
    assert {subject.kind for subject in live} == {"live"}
    assert {subject.kind for subject in select_subjects(Photographs(), "objects")} == {"object"}


def test_every_photograph_names_its_author_and_licence() -> None:
    photos = [photo for subject in load_subjects() for photo in subject.photos]
    assert len({photo.sha256 for photo in photos}) == 158
    assert all(photo.author and photo.licence and photo.size > 0 for photo in photos)
    by_licence = {photo.licence for photo in photos}
    assert "Unsplash License" in by_licence
    unsplash = [photo for photo in photos if photo.licence == "Unsplash License"]
    assert all(photo.author.startswith("@") for photo in unsplash)
    assert all((photo.url or "").startswith("https://") or photo.note for photo in unsplash)
    assert photos[0].credit == "@laurachouette on Unsplash (Unsplash License)"


def test_shipped_subjects_are_what_the_data_set_says(photographs: Path) -> None:
    parsed = parse_subjects(photographs)
    shipped = (files("dbbench.subjects") / "subjects.toml").read_text("utf-8")
    assert tomllib.loads(shipped)["subject"] == parsed
    assert shipped == render_toml(parsed)


def test_parser_refuses_a_folder_that_is_not_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is not the DreamBooth data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("dog,teapot", ["dog", "teapot"]),
        (" teapot , dog ,", ["teapot", "dog"]),
        ("cat,cat", ["cat"]),
        ("cat2,live", ["cat2", "cat", "dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8"]),
    ],
)
def test_subjects_are_selected_in_the_order_named(expression: str, names: list[str]) -> None:
    assert [subject.name for subject in select_subjects(Photographs(), expression)] == names


def test_all_subjects_are_objects_and_live_ones() -> None:
    assert select_subjects(Photographs(), "all") == load_subjects()
    assert set(select_subjects(Photographs(), "objects,live")) == set(load_subjects())


def test_unknown_subject_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r'unknown subject "teapott"; did you mean "teapot"\?'):
        select_subjects(Photographs(), "dog,teapott")


def test_empty_selection_is_refused() -> None:
    with pytest.raises(UserError, match="no subject"):
        select_subjects(Photographs(), " , ")


def test_photographs_come_square_rgb_in_order_with_credit(
    tmp_path: Path, make_photos: MakePhotos
) -> None:
    dog, _ = make_photos(tmp_path)
    references = Photographs(tmp_path).images(dog, 16)
    assert [reference.name for reference in references] == ["00", "01", "02"]
    assert {reference.image.size for reference in references} == {(16, 16)}
    assert {reference.image.mode for reference in references} == {"RGB"}
    assert references[0].sha256 == dog.photos[0].sha256
    assert references[0].credit == "A. Tester (CC0)"
    assert references[0].truth is None


def test_the_layout_of_the_upstream_repository_is_accepted(
    tmp_path: Path, make_photos: MakePhotos
) -> None:
    make_photos(tmp_path / "dataset")
    assert photo_root(tmp_path) == tmp_path / "dataset"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "bytes where the original has"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "was altered"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_a_photograph_that_is_not_the_original_gives_one_line(
    tmp_path: Path,
    make_photos: MakePhotos,
    damage: Callable[[Path], object],
    complaint: str,
) -> None:
    dog, teapot = make_photos(tmp_path)
    damage(tmp_path / "dog" / "01.jpg")
    folder = Photographs(tmp_path)
    with pytest.raises(UserError) as caught:
        folder.images(dog, 16)
    message = str(caught.value)
    assert "dog/01.jpg" in message
    assert complaint in message
    assert "dbbench data fetch" in message
    assert "\n" not in message
    assert len(folder.images(teapot, 16)) == 2


def test_a_folder_that_is_not_the_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the DreamBooth data set"):
        Photographs(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        Photographs(tmp_path / "nowhere")


def test_fingerprint_follows_the_resolution_and_the_originals(
    tmp_path: Path, make_photos: MakePhotos
) -> None:
    dog, teapot = make_photos(tmp_path)
    folder = Photographs(tmp_path)
    assert folder.fingerprint(dog, 16) == Photographs().fingerprint(dog, 16)
    assert folder.fingerprint(dog, 16) != folder.fingerprint(teapot, 16)
    assert folder.fingerprint(dog, 16) != folder.fingerprint(dog, 32)


def _encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_a_rotated_photograph_is_turned_upright() -> None:
    image = Image.new("RGB", (8, 8), "white")
    image.paste((255, 0, 0), (0, 0, 8, 4))  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    upright = prepare_photo(_encode(image, exif=exif), 8)
    assert upright.getpixel((4, 0)) == (255, 255, 255)
    assert upright.getpixel((4, 7)) == (255, 0, 0)


def test_colours_are_brought_from_the_embedded_profile_to_srgb() -> None:
    image = Image.new("RGB", (8, 8), (200, 120, 40))
    untagged = prepare_photo(_encode(image), 8)
    assert untagged.getpixel((0, 0)) == (200, 120, 40)

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = prepare_photo(_encode(image, icc_profile=srgb), 8)
    np.testing.assert_allclose(np.asarray(tagged), np.asarray(untagged), atol=1)

    # Lab is a space whose values mean something else entirely: mid-grey is L = 50.
    lab = Image.new("LAB", (8, 8), (128, 128, 128))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    buffer = io.BytesIO()
    lab.save(buffer, "TIFF", icc_profile=profile)
    grey = np.asarray(prepare_photo(buffer.getvalue(), 8))[0, 0]
    np.testing.assert_allclose(grey, [119, 119, 119], atol=2)


def test_reduction_does_not_alias() -> None:
    # A one-pixel checkerboard holds nothing but the finest detail: reduced, it is plain grey.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = np.asarray(prepare_photo(_encode(Image.fromarray(board).convert("RGB")), 8))
    assert small[2:-2, 2:-2].std() < 1
    assert abs(small.mean() - 127.5) < 2


def test_the_real_photographs_load(photographs: Path) -> None:
    folder = Photographs(photographs)
    for name in ("dog", "teapot"):
        (subject,) = select_subjects(folder, name)
        references = folder.images(subject, 64)
        assert len(references) == len(subject.photos)
        assert all(reference.image.size == (64, 64) for reference in references)
