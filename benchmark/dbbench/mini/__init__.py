"""The embedded world: drawn subjects and small trained models; needs no GPU and no download."""

from __future__ import annotations

from pathlib import Path

from dbbench.errors import UserError


def weights(name: str) -> Path:
    """Return the folder of an embedded model: "backbone", "dino", "clip" or "judge".

    Raises UserError if it is missing.
    """
    folder = Path(__file__).parent / "weights" / name
    if not folder.is_dir():
        raise UserError(
            f"no embedded weights {name!r} in {folder.parent}; install dbbench again, or train "
            f"them: python -m dbbench.mini.training.train {name}"
        )
    return folder
