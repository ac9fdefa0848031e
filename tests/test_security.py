"""Claims about what input from elsewhere cannot do: run code, or name files outside its folder."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dbbench.errors import UserError
from dbbench.files import contained
from dbbench.generation.checkpoints.convert import convert
from dbbench.image_sets.manifest import read
from dbbench.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for folder in ("benchmark", "baselines", "reports", "subjects", "prompts")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr], int]]:
    """Yield each call's name with its keywords and line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg or "": keyword.value for keyword in node.keywords}
            yield name, keywords, node.lineno


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def test_no_source_trusts_remote_code_or_opens_pickles() -> None:
    assert len(SOURCES) > 150
    problems = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    named = isinstance(key, ast.Constant) and key.value == "trust_remote_code"
                    if named and ast.unparse(value) != "False":
                        problems.append(f"{path}:{node.lineno} trusts remote code")
        for name, keywords, line in calls(path):
            where = f"{path}:{line} {name}"
            trusted = keywords.get("trust_remote_code")
            if trusted is not None and ast.unparse(trusted) != "False":
                problems.append(f"{where} trusts remote code")
            if name.endswith(("torch.load", "load_state_dict_from_url")) and not is_true(
                keywords.get("weights_only")
            ):
                problems.append(f"{where} without weights_only")
            if name in {"np.load", "numpy.load"} and is_true(keywords.get("allow_pickle")):
                problems.append(f"{where} allows pickles")
            if name in {"pickle.load", "pickle.loads", "joblib.load", "pd.read_pickle", "eval"}:
                problems.append(where)
    assert problems == []


class Malice:
    """What a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o777)


def test_converting_keeps_every_tensor(tmp_path: Path) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": tied, "b": tied, "t": tied.T}, "epoch": 3}, tmp_path / "x.ckpt")
    (written,) = convert(tmp_path / "x.ckpt", tmp_path / "x.safetensors").written
    loaded = load_file(written)
    assert set(loaded) == {"a", "b", "t"}
    assert torch.equal(loaded["a"], tied)
    assert torch.equal(loaded["t"], tied.T)


def test_converting_a_folder_keeps_its_layout(tmp_path: Path) -> None:
    old = tmp_path / "old"
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"):
        (old / name).parent.mkdir(parents=True)
        torch.save({"w": torch.ones(2)}, old / name)
    (old / "unet" / "config.json").write_text("{}")
    convert(old, tmp_path / "new")
    names = [p.relative_to(tmp_path / "new").as_posix() for p in (tmp_path / "new").rglob("*.*")]
    assert sorted(names) == [
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_converting_runs_no_code(tmp_path: Path) -> None:
    for name, save in (("a.pt", torch.save), ("b.bin", None)):
        content = {"w": torch.ones(2), "evil": Malice(tmp_path / "was-here")}
        if save is not None:
            torch.save(content, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(UserError, match="holds more than tensors"):
            convert(tmp_path / name, tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "was-here").exists()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "link/x"])
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="points outside"):
        contained(tmp_path / "folder", name)


def test_an_artifact_with_a_link_to_elsewhere_is_damaged(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "a", {})
    with artifact.create() as folder:
        (folder / "x.txt").write_text("abc")
    (tmp_path / "secret").write_text("abc")
    (artifact.path / "x.txt").unlink()
    (artifact.path / "x.txt").symlink_to(tmp_path / "secret")
    assert artifact.state == "damaged"


def test_a_relative_path_in_a_list_of_images_does_not_lead_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "given").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "given" / "own.png")
    (tmp_path / "given" / "link.png").symlink_to(tmp_path / "secret.png")
    whole = str(tmp_path / "secret.png")
    names = ["own.png", "../secret.png", whole, "link.png"]
    lines = [f"{name},dog,jungle" for name in names]
    manifest = tmp_path / "given" / "list.csv"
    manifest.write_text("\n".join(["image,subject,prompt", *lines]))
    found = read(manifest, tmp_path / "scratch")
    assert [row.name for row in found.rows] == ["own.png", whole]
    assert len(found.refused) == 2
    assert all("is outside of" in line for line in found.refused)
