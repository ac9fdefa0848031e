"""Image files that a stage makes one after the other, and finds again after an interruption."""

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

PENDING_IMAGES = 64  # Images that may wait for the disk.
PNG_COMPRESSION = 1  # Level 6 takes five times as long for files a tenth smaller.


def sample_into(
    folder: Path,
    files: Sequence[str],
    generate: Callable[[int], Iterator[Image.Image]],
    batch_size: int,
    advance: Advance,
) -> int:
    """Write files[i] from the i-th image; go on after the whole batches that are there already.

    Batches keep their composition, so that an interrupted pass gives the same bits as one that
    was not: floating-point sums depend on what is computed side by side. An image counts as there
    where its bytes have the hash that was noted when it was written.
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
    with _Writer(folder, journal) as writer:
        for number, file in enumerate(files[start:], start + 1):
            image = next(images, None)
            if image is None:
                raise UserError(
                    f"the method gave {number - 1} images where {len(files)} were asked for"
                )
            writer.save(image, file)
            advance(number, len(files), {})
    if next(images, None) is not None:
        raise UserError(f"the method gave more than the {len(files)} images that were asked for")
    return len(files) - start


def save_png(image: Image.Image, path: Path) -> str:
    """Write an image; return the SHA-256 of what was to be written."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="PNG", compress_level=PNG_COMPRESSION)
    path.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def open_image(path: Path) -> Image.Image:
    """Read an image as RGB."""
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _present(folder: Path, files: Sequence[str], journal: Path, batch_size: int) -> int:
    """Return how many of the first images an interrupted pass with that batch size has left."""
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


class _Writer:
    """Writes PNG files in order while the next images are made; an error surfaces in `save`.

    The journal gets a line for each, "SHA-256 file".
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        self._folder, self._journal = folder, journal
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future[None]] = deque()

    def save(self, image: Image.Image, file: str) -> None:
        """Take an image; wait where the disk has fallen behind by many."""
        while self._pending and (self._pending[0].done() or len(self._pending) >= PENDING_IMAGES):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, image, file))

    def _write(self, image: Image.Image, file: str) -> None:
        path = self._folder / file
        path.parent.mkdir(exist_ok=True)
        digest = save_png(image, path)
        with self._journal.open("a", encoding="utf-8") as stream:
            stream.write(f"{digest} {file}\n")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Whatever happened, what was handed over is written, so that a resumed try finds it.
        self._pool.shutdown(wait=True)
        if error is None:
            for future in self._pending:
                future.result()
