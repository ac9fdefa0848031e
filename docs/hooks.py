"""MkDocs hook: result files and notebooks, which pages link to, become part of the site."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = "benchmark/measurements/results"
# Links as they work in a checkout: ](../benchmark/.../x.json) and ](notebooks/x.ipynb)
_RESULT = re.compile(rf"\]\(\.\./{RESULTS}/")
_NOTEBOOK = re.compile(r"\]\((notebooks/\w+)\.ipynb\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of measurements/results as results/, and each notebook as a page."""
    folder = REPOSITORY / RESULTS
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            uri = f"results/{path.relative_to(folder).as_posix()}"
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    for notebook in sorted((REPOSITORY / "docs/notebooks").glob("*.ipynb")):
        text, images = _page(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point such links to what was added."""
    return _NOTEBOOK.sub(r"](\1.md)", _RESULT.sub("](results/", markdown))


def _page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs -> Markdown, and its pictures by name."""
    blocks, images = [], {}
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"]):
        source = "".join(cell["source"])
        blocks.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{notebook.stem}-{number}.png"
                images[name] = base64.b64decode("".join(data["image/png"]))
                blocks.append(f"![output]({name})")
            elif "text/html" in data:
                blocks.append("".join(data["text/html"]))
            else:
                text = "".join(output.get("text") or data.get("text/plain", ""))
                blocks.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(blocks) + "\n", images
