"""Trains the encoders of the embedded world, mini-dino and mini-clip, and the judge.

mini-dino is a timm ViT trained without labels, by contrastive learning against a momentum encoder
(arXiv 2104.02057). Positive pairs are crops of one picture, and two pictures of one object in
different places. With crops of one picture only, it mostly encodes the place: then the right
subject in the prompts' places scores little higher than another subject.
mini-clip is an open_clip model trained on pictures and captions (arXiv 2103.00020).
The judge classifies what a picture shows (`judge.py`); no score is computed from it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from dbbench.mini.autoencoder import PatchAutoencoder
from dbbench.mini.judge import HEADS, Judge, answers
from dbbench.mini.training.dataset import scene
from dbbench.mini.training.tokenizer import MAX_LENGTH, make_tokenizer
from dbbench.mini.training.train_backbone import images_to_tensor
from dbbench.mini.training.train_loop import train_loop

DINO = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "num_classes": 0,
    "dynamic_img_size": True,
}


def crops(x: Tensor, rng: torch.Generator, *, size: int, scale: tuple[float, float]) -> Tensor:
    """Return random resized crops, half of them mirrored, with slight changes of light and noise.

    (N, 3, H, W) in -1..1 -> (N, 3, size, size).
    """
    n = len(x)
    side = torch.empty(n).uniform_(*scale, generator=rng).sqrt()
    shift = (torch.rand(n, 2, generator=rng) * 2 - 1) * (1 - side)[:, None]
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side * mirror, side
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    y = F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")
    gain = torch.empty(n, 3, 1, 1).uniform_(0.92, 1.08, generator=rng)
    bright = torch.empty(n, 1, 1, 1).uniform_(-0.08, 0.08, generator=rng)
    noise = torch.randn(y.shape, generator=rng) * 0.03
    return (y * gain + bright + noise).clamp(-1, 1)


def _batches(pictures: NDArray[np.uint8], batch: int, seed: int) -> Callable[[int], Any]:
    def get(step: int) -> tuple[NDArray[np.int64], Tensor, torch.Generator]:
        pick = np.sort(np.random.default_rng([seed, step]).integers(0, len(pictures), batch))
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return pick, images_to_tensor(pictures[pick]), rng

    return get


class _Projected(nn.Module):
    """A ViT with the projector and predictor heads, which only training uses."""

    def __init__(self, vit: nn.Module, width: int, *, predict: bool) -> None:
        super().__init__()
        self.vit = vit
        self.projector = nn.Sequential(
            nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 128)
        )
        self.predictor = (
            nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
            if predict
            else nn.Identity()
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.predictor(self.projector(self.vit(x))), dim=-1)


def train_dino(
    pictures: NDArray[np.uint8], others: NDArray[np.uint8], out: Path, *, steps: int
) -> None:
    """Train mini-dino: match a local crop, and another scene of it, to the teacher's crop.

    `others[i]` shows the identity of `pictures[i]` in another scene.
    """
    batch, seed = 64, 1
    torch.manual_seed(seed)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **DINO)
    student = _Projected(vit, 128, predict=True)
    teacher = _Projected(copy.deepcopy(vit), 128, predict=False)
    teacher.projector.load_state_dict(student.projector.state_dict())
    teacher.requires_grad_(False)
    get = _batches(pictures, batch, seed)
    labels = torch.arange(batch)

    def loss_of(step: int) -> Tensor:
        pick, x, rng = get(step)
        with torch.no_grad():
            key = teacher(crops(x, rng, size=64, scale=(0.5, 1.0)))
        views = (
            crops(images_to_tensor(others[pick]), rng, size=64, scale=(0.4, 1.0)),
            crops(x, rng, size=40, scale=(0.12, 0.4)),
        )
        loss = sum(F.cross_entropy(student(v) @ key.T / 0.15, labels) for v in views)
        return torch.as_tensor(loss) / 2

    @torch.no_grad()
    def follow(step: int) -> None:
        keep = min(0.99, (1 + step) / (10 + step))
        for name in ("vit", "projector"):
            ours, theirs = getattr(teacher, name), getattr(student, name)
            for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
                if a.is_floating_point():
                    a.lerp_(b, 1 - keep)

    train_loop(
        student, out / "dino.pt", steps=steps, rate=1e-3, batch=batch, loss_of=loss_of,
        after=follow, extra=teacher,
    )  # fmt: skip


@torch.no_grad()
def centre(vit: nn.Module, pictures: NDArray[np.uint8]) -> None:
    """Center the features on their mean over the world, through the bias of the last norm.

    Pictures have much in common; without centering, every cosine similarity is near 1.
    """
    parts = [vit(images_to_tensor(pictures[s : s + 500])) for s in range(0, 4000, 500)]
    norm: Any = vit.norm
    norm.bias -= torch.cat(parts).mean(0)


def export_dino(pictures: NDArray[np.uint8], out: Path, folder: Path) -> None:
    """Write mini-dino in timm's local-dir layout, float16."""
    state = torch.load(out / "dino.pt", weights_only=True)["extra"]
    folder.mkdir(parents=True, exist_ok=True)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **DINO).eval()
    vit.load_state_dict(
        {k.removeprefix("vit."): v for k, v in state.items() if k.startswith("vit.")}
    )
    centre(vit, pictures)
    _save_half(vit.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": DINO,
        "num_features": 128,
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "num_classes": 0,
            "pool_size": None,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _clip_config() -> dict[str, Any]:
    tokenizer = make_tokenizer()
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32,
        },
        "text_cfg": {
            "context_length": MAX_LENGTH, "vocab_size": len(tokenizer), "width": 128, "heads": 4,
            "layers": 2, "hf_tokenizer_name": "mini", "pool_type": "eos",
            "eos_id": tokenizer.eos_token_id,
        },
    }  # fmt: skip


def train_clip(
    pictures: NDArray[np.uint8], tokens: NDArray[np.uint16], out: Path, *, steps: int
) -> None:
    """Train mini-clip with the contrastive loss between pictures and captions."""
    batch, seed = 96, 2
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**_clip_config())
    get = _batches(pictures, batch, seed)
    labels = torch.arange(batch)

    def loss_of(step: int) -> Tensor:
        pick, x, rng = get(step)
        which = torch.randint(tokens.shape[1], (batch,), generator=rng).numpy()
        ids = torch.from_numpy(tokens[pick, which].astype(np.int64))
        image = model.encode_image(crops(x, rng, size=64, scale=(0.8, 1.0)), normalize=True)
        text = model.encode_text(ids, normalize=True)
        logits = model.logit_scale.exp().clamp_max(50) * image @ text.T
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    train_loop(model, out / "clip.pt", steps=steps, rate=1.5e-3, batch=batch, loss_of=loss_of)


def export_clip(out: Path, folder: Path) -> None:
    """Write mini-clip in open_clip's local-dir layout, float16, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(out / "clip.pt", weights_only=True)["model"]
    _save_half(state, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": _clip_config(),
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    make_tokenizer().save_pretrained(folder)


def train_judge(pictures: NDArray[np.uint8], out: Path, *, steps: int) -> None:
    """Train the judge on pictures, and on their reconstructions by the autoencoder."""
    batch, seed = 64, 3
    torch.manual_seed(seed)
    model = Judge().to(memory_format=torch.channels_last)
    vae = PatchAutoencoder.from_pretrained(out / "vae")
    get = _batches(pictures, batch, seed)
    file = out / f"truth-{len(pictures)}.npy"
    if not file.exists():
        np.save(file, np.asarray([answers(scene(i)) for i in range(len(pictures))], dtype=np.int8))
    truth = np.load(file)

    def loss_of(step: int) -> Tensor:
        pick, x, rng = get(step)
        half = batch // 2
        with torch.no_grad():
            z = vae.encode(x[:half]).latent_dist.mode()
            z = z + 0.15 * torch.randn(z.shape, generator=rng)
            x = torch.cat([vae.decode(z).sample.clamp(-1, 1), x[half:]])
        logits = model(crops(x, rng, size=64, scale=(0.85, 1.0)))
        y = torch.from_numpy(truth[pick].astype(np.int64))
        total = sum(
            F.cross_entropy(logits[h], y[:, i], label_smoothing=0.05) for i, h in enumerate(HEADS)
        )
        return torch.as_tensor(total)

    train_loop(model, out / "judge.pt", steps=steps, rate=2e-3, batch=batch, loss_of=loss_of)


def export_judge(out: Path, folder: Path) -> None:
    """Write the weights of the judge as float16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    state = torch.load(out / "judge.pt", weights_only=True)["model"]
    _save_half(state, folder / "model.safetensors")


def _save_half(state: dict[str, Tensor], file: Path) -> None:
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(half, str(file), metadata={"format": "pt"})
