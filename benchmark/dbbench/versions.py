"""The versions of the packages that results depend on; saved beside every run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "dbbench", "diffusers", "numpy", "open_clip_torch", "peft", "pillow", "timm", "tokenizers",
    "torch", "transformers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
