"""The image files of a stage: written in the background, reused after an interruption."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from dbbench.advance import Advance
from dbbench.errors import UserError
from dbbench.files import hash_file

PENDING_IMAGES = 64  # At most so many images wait to be written.
PNG_COMPRESSION = 1  # Level 6 takes five times as long for files a tenth smaller.


def sample_into(
    folder: Path,
    files: Sequence[str],
    generate: Callable[[int], Iterator[Image.Image]],
    batch_size: int,
    advance: Advance,
) -> int:
    """Write files[i] from the i-th image, after the complete batches that exist; return how many.

    Batches keep their composition, so that a resumed pass gives the same bits as an uninterrupted
    one: floating-point sums depend on what is in the same batch. An image exists if its file has
    the hash that the journal recorded when it was written. Raises UserError if `generate` yields
    fewer or more images than files.
    """
    journal = folder / ".images"
    present = _present(folder, files, journal, batch_size)
    start = len(files) if present == len(files) else present - present % batch_size
    if start == len(files):
        return 0
    if not start:
        journal.write_text(f"{batch_size}\n", encoding="utf-8")
    advance(start, len(files), {})
    images = generate(start)
    pending: deque[Future[None]] = deque()
    # One thread writes while the next images are made. After an error it still writes what it was
    # given, so that the next attempt finds it.
    with ThreadPoolExecutor(max_workers=1) as writer:
        for number, file in enumerate(files[start:], start + 1):
            image = next(images, None)
            if image is None:
                raise UserError(f"the method returned {number - 1} images instead of {len(files)}")
            while pending and (pending[0].done() or len(pending) >= PENDING_IMAGES):
                pending.popleft().result()
            pending.append(writer.submit(_write, image, file, folder, journal))
            advance(number, len(files), {})
    for future in pending:
        future.result()
    if next(images, None) is not None:
        raise UserError(f"the method returned more than {len(files)} images")
    return len(files) - start


def save_png(image: Image.Image, path: Path) -> str:
    """Write an image as RGB; return the SHA-256 of the bytes handed to the disk."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG", compress_level=PNG_COMPRESSION)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB."""
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _present(folder: Path, files: Sequence[str], journal: Path, batch_size: int) -> int:
    """Return how many of the first images an interrupted pass with that batch size wrote."""
    try:
        first, *lines = journal.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0
    if first != str(batch_size):
        return 0
    noted = dict(line.split(" ", 1)[::-1] for line in lines if " " in line)
    for number, file in enumerate(files):
        path = folder / file
        if not path.is_file() or noted.get(file) != hash_file(path):
            return number
    return len(files)


def _write(image: Image.Image, file: str, folder: Path, journal: Path) -> None:
    """Write folder/file, then its line "SHA-256 file" in the journal."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    digest = save_png(image, path)
    with journal.open("a", encoding="utf-8") as stream:
        stream.write(f"{digest} {file}\n")
