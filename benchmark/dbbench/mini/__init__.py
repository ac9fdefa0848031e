"""The embedded world: drawn subjects and small trained models, so that everything runs anywhere."""

from __future__ import annotations

from pathlib import Path

BANNER = "mini: embedded world, not comparable with published numbers"


def weights(name: str) -> Path:
    """The folder of an embedded model: "backbone", "dino", "clip" or "judge".

    Raises:
        FileNotFoundError: no such model is embedded.
    """
    folder = Path(__file__).parent / "weights" / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no embedded weights {name!r} in {folder.parent}; make them with "
            f"`python -m dbbench.mini.train {name}`"
        )
    return folder
