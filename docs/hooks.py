"""MkDocs hook: pages link to result files where they lie; the site gets copies under results/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = "benchmark/measurements/results"
# A link from a page to a result file, as it works in a checkout: ](../benchmark/.../x.json)
_RESULT = re.compile(rf"\]\(\.\./{RESULTS}/")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of measurements/results, which lie outside of docs/, to the site."""
    folder = REPOSITORY / RESULTS
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            uri = f"results/{path.relative_to(folder).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point such links to the copies."""
    return _RESULT.sub("](results/", markdown)
