"""The embedded world: drawn subjects and small trained models, so that everything runs anywhere."""

from __future__ import annotations

from pathlib import Path

from dbbench.errors import UserError


def weights(name: str) -> Path:
    """The folder of an embedded model: "backbone", "dino", "clip" or "judge".

    Raises UserError where this installation lacks it.
    """
    folder = Path(__file__).parent / "weights" / name
    if not folder.is_dir():
        raise UserError(
            f"no embedded weights {name!r} in {folder.parent}; install dbbench again, or make "
            f"them: python -m dbbench.mini.training.train {name}"
        )
    return folder
