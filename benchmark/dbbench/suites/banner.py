"""Banner: the line that stands on every table whose numbers are of the embedded world."""

from __future__ import annotations

from collections.abc import Iterable

EMBEDDED = ("mini-clip", "mini-dino", "mini-lpips")
"""The embedded world's encoders."""
WORLD = "embedded world, not comparable with published numbers"


def full_banner(banner: str | None, encoders: Iterable[str]) -> str | None:
    """Return a banner, and what must be said of the encoders where it does not say it.

    None where there is nothing to say.
    """
    schemes = {reference.partition(":")[0] for reference in encoders}
    used = [name for name in EMBEDDED if name in schemes]
    if not used or WORLD in (banner or ""):
        return banner
    line = f"{', '.join(used)}: encoder{'s' if len(used) > 1 else ''} of the {WORLD}"
    return f"{banner}; {line}" if banner else line
