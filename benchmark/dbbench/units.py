"""Rates, durations and sizes as text, and sizes read from text."""

from __future__ import annotations

import re

from dbbench.errors import UserError


def per_second(rate: float) -> str:
    """Return a rate per second as short text: "1,640", "12.3", "0.52", "0.0052"."""
    if rate >= 100:
        return f"{rate:,.0f}"
    return f"{rate:.{1 if rate >= 10 else 2 if rate >= 0.1 else 4}f}"


def duration(seconds: float) -> str:
    """Return a time span as short text: "45 s", "12 min", "3 h 05 min", "2 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def gigabytes(size: int) -> str:
    """Return a size in bytes as short text: "1.2 GB", "340 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def parse_size(text: str, what: str) -> int:
    """Return a size such as "500MB" or "20GB" in bytes. A UserError names it `what`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text)
    if match is None:
        raise UserError(f'{what} is "{text}"; write a size such as 500MB or 20GB')
    powers = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}
    return int(float(match[1]) * 1000 ** powers[match[2]])
