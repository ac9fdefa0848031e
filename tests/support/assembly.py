"""The package put together in one folder, as `make imports` and mypy look at it."""

from __future__ import annotations

from pathlib import Path

OUTER = ("subjects", "prompts", "baselines", "reports")


def assembled(repository: Path, folder: Path) -> Path:
    """Link the package together as `make imports` does; folders are real, files are links."""
    sources = {repository / "benchmark" / "dbbench": folder / "dbbench"}
    sources |= {repository / name: folder / "dbbench" / name for name in OUTER}
    for source, target in sources.items():
        for path in source.rglob("*.py"):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return folder
