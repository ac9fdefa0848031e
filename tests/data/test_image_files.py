"""Which files of a folder are images: by name, else by content; the rest is counted."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from dbbench.data.image_files import look_into, passed_over

APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(80)


def picture(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 60)).save(path, kind)
    return path


def test_content_decides_where_the_name_does_not(tmp_path: Path) -> None:
    for name, kind in {"10.jfif": "JPEG", "2.JPG": "JPEG", "3.img": "WEBP", "4": "PNG"}.items():
        picture(tmp_path / name, kind)
    (tmp_path / "5.png").write_bytes(b"")  # Decoding refuses it by name.
    (tmp_path / "6.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "7.bin").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0")
    os.symlink(tmp_path / "gone.png", tmp_path / "8.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "BM notes.txt").write_text("BM P6 is not an image")
    found = look_into(tmp_path)
    assert [path.name for path in found.images] == [
        *("2.JPG", "3.img", "4", "5.png", "6.HEIC", "7.bin", "8.png", "10.jfif")
    ]
    assert [path.name for path in found.others] == ["BM notes.txt", "pipe"]


def test_what_systems_leave_is_not_seen(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg", "JPEG")
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        picture(tmp_path / name / "0.png")
    picture(tmp_path / ".hidden.png")
    found = look_into(tmp_path)
    assert [path.name for path in found.images] == ["0.jpg"]
    assert not found.folders
    assert [path.name for path in found.others] == [".hidden.png"]


def test_other_files_are_counted_in_one_line(tmp_path: Path) -> None:
    files = [Path(f"{n}.txt") for n in range(3)] + [Path("x.JSON"), Path("README")]
    line = "passed over 5 files that are not images (3 .txt, 1 .json, 1 without an ending)"
    assert passed_over(files) == line
    assert passed_over([]) == ""


def test_images_in_deeper_folders_are_counted(tmp_path: Path) -> None:
    for name in ("0.png", "a/1.png", "a/b/2.png", ".c/3.png"):
        picture(tmp_path / name)
    assert look_into(tmp_path).images_below() == 2
