"""Creates subjects.toml from a copy of the DreamBooth data set. It was run once.

    python -m dbbench.subjects.parse DATA_FOLDER > subjects/subjects.toml

DATA_FOLDER is the folder of the data set: `prompts_and_classes.txt`, `references_and_licenses.txt`
and one folder of photographs per subject. The output holds facts only: names, hashes, attribution.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# The data set gives the second prompt list, for live subjects, to these two classes.
LIVE_CLASSES = ("cat", "dog")

CC_BY = "CC-BY-4.0"
UNSPLASH = "Unsplash License"
PERMISSION = "CC-BY-4.0, by permission of the artist"

HEADER = """\
# The 30 subjects of the DreamBooth data set (Ruiz et al., arXiv 2208.12242; CC-BY-4.0).
# Made by `python -m dbbench.subjects.parse` from the data set's own files; do not edit by hand.
# `url` is where the photograph came from; `note` is the data set's own remark on that file.
"""


def parse_subjects(folder: Path) -> list[dict[str, Any]]:
    """Read the data set's class table, references and photographs; return plain dictionaries.

    Raises ValueError if the folder is not the data set, or its files disagree.
    """
    classes = parse_classes((folder / "prompts_and_classes.txt").read_text("utf-8"))
    credits = parse_references((folder / "references_and_licenses.txt").read_text("utf-8"))
    if missing := sorted(set(classes) - set(credits)):
        raise ValueError(f"no reference for {', '.join(missing)}")
    return [
        {
            "name": name,
            "class_noun": class_noun,
            "live": class_noun in LIVE_CLASSES,
            "photos": [
                _photo(path, credits[name]) for path in sorted((folder / name).glob("[!.]*.jpg"))
            ],
        }
        for name, class_noun in classes.items()
    ]


def parse_classes(text: str) -> dict[str, str]:
    """Return subject name -> class noun from the table in `prompts_and_classes.txt`."""
    rows = re.findall(r"^([a-z0-9_]+),([a-z ]+)$", text, flags=re.MULTILINE)
    return {name: noun for name, noun in rows if name != "subject_name"}


def parse_references(text: str) -> dict[str, dict[str, Any]]:
    """Return subject name -> {author, licence, url, files: {"00": line}} from the references."""
    body = text.split("\nLicenses\n", 1)[0]
    found: dict[str, dict[str, Any]] = {}
    for block in re.split(r"\n\s*\n", body):
        lines = [line.strip() for line in block.strip().splitlines()]
        if lines and (head := re.fullmatch(r"([a-z0-9_]+):\s*(.*)", lines[0])):
            found[head[1]] = _credit(head[2], lines[1:])
    return found


def render_toml(subjects: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of subjects.toml: one table per subject, one line per photograph."""
    parts = [HEADER]
    for subject in subjects:
        photos = ",\n".join(f"  {_inline_table(photo)}" for photo in subject["photos"])
        parts.append(
            "[[subject]]\n"
            f"name = {_toml(subject['name'])}\n"
            f"class_noun = {_toml(subject['class_noun'])}\n"
            f"live = {_toml(subject['live'])}\n"
            f"photos = [\n{photos},\n]\n"
        )
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Print subjects.toml for the data folder named on the command line."""
    if len(arguments) != 1:
        print("usage: python -m dbbench.subjects.parse DATA_FOLDER", file=sys.stderr)
        return 2
    try:
        subjects = parse_subjects(Path(arguments[0]))
    except (OSError, ValueError) as error:
        print(f"{arguments[0]} is not the DreamBooth data set: {error}", file=sys.stderr)
        return 2
    sys.stdout.write(render_toml(subjects))
    return 0


def _credit(remark: str, lines: list[str]) -> dict[str, Any]:
    """Parse one subject's entry: one remark on all photos, or a profile and one line per file."""
    if artist := re.match(r"Art by ([^(]+?) \(credit: (\S+)\)", remark):
        return {"author": artist[1], "licence": PERMISSION, "url": artist[2], "files": {}}
    if photographer := re.fullmatch(r"Photos (?:taken )?by (.+)", remark):
        return {"author": photographer[1], "licence": CC_BY, "url": None, "files": {}}
    profile = re.fullmatch(r"\(credit: https://unsplash\.com/(@\S+)\)", lines[0] if lines else "")
    if profile is None:
        raise ValueError(f"cannot read the reference {remark!r} {lines!r}")
    files = dict(re.split(r":\s*", line, maxsplit=1) for line in lines[1:])
    return {
        "author": f"{profile[1]} on Unsplash",
        "licence": UNSPLASH,
        "url": None,
        "files": files,
    }


def _photo(path: Path, credit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts about one photograph; a line that is not a URL becomes a note."""
    content = path.read_bytes()
    photo = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "author": credit["author"],
        "licence": credit["licence"],
    }
    line = credit["files"].get(path.stem, "")
    if credit["files"] and not line:
        raise ValueError(f"no reference for {path.parent.name}/{path.name}")
    if line.startswith("https://"):
        photo["url"] = line
    elif credit["url"] is not None:
        photo["url"] = credit["url"]
    elif line:
        photo["note"] = line
    return photo


def _inline_table(values: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in values.items()) + " }"


def _toml(value: str | bool | int) -> str:
    # TOML's basic strings, booleans and integers are written as JSON writes them.
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
