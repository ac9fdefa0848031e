"""The judge: classifies what an image of the embedded world shows; not a metric.

A small convolutional classifier, trained on the known scenes of drawings. It tests whether a sample
shows what its prompt asks for. No score, rank or report column is computed from it. It rates the
embedded backbone and the methods' settings (benchmark/measurements/quality), and serves tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

from dbbench.data.prompt import PromptTemplate
from dbbench.mini import weights
from dbbench.mini.drawing.canvas import PALETTE, PATTERNS
from dbbench.mini.drawing.nouns import NOUNS
from dbbench.mini.drawing.outfits import OUTFITS
from dbbench.mini.drawing.places import PLACES
from dbbench.mini.drawing.world import CHANGES, REPAINTS, Scene

HEADS: dict[str, tuple[str, ...]] = {
    "noun": tuple(NOUNS),
    "place": ("studio", *PLACES),
    "outfit": ("none", *OUTFITS),
    "change": ("none", *CHANGES),
    "main": tuple(PALETTE),
    "pattern": PATTERNS,
}


def answers(scene: Scene) -> list[int]:
    """Return the correct answer of each head, as indices."""
    truth = {
        "noun": scene.identity.noun,
        "place": scene.place or "studio",
        "outfit": scene.outfit or "none",
        "change": scene.change or "none",
        "main": scene.identity.main,
        "pattern": scene.identity.pattern,
    }
    return [HEADS[head].index(answer) for head, answer in truth.items()]


class Judge(nn.Module):
    """RGB in -1..1 (N, 3, 64, 64) -> logits per head."""

    def __init__(self) -> None:
        super().__init__()

        def block(a: int, b: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            block(3, 24, 2), block(24, 48, 2), block(48, 48, 1), block(48, 96, 2),
            block(96, 96, 1), block(96, 160, 2), block(160, 160, 1),
        )  # fmt: skip
        self.pool = nn.Linear(160 * 16, 192)
        self.heads = nn.ModuleDict({h: nn.Linear(192, len(a)) for h, a in HEADS.items()})

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the logits (N, answers) of each head."""
        pooled = F.relu(self.pool(self.body(x).flatten(1)))
        return {h: head(pooled) for h, head in self.heads.items()}


@dataclass(frozen=True)
class Judgement:
    """The judge's answers for one image; keys as in HEADS."""

    seen: dict[str, str]

    def shows_noun(self, class_noun: str) -> bool:
        """Whether the subject has this class."""
        return self.seen["noun"] == class_noun

    def shows_prompt(self, prompt: PromptTemplate) -> bool:
        """Whether the prompted place, outfit, change or color is shown."""
        if prompt.id in REPAINTS:
            return self.seen["main"] == prompt.id
        return prompt.id in (self.seen["place"], self.seen["outfit"], self.seen["change"])


def load_judge() -> Judge:
    """Load the embedded judge on the CPU."""
    judge = Judge()
    state = load_file(str(weights("judge") / "model.safetensors"))
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return judge.eval()


@torch.inference_mode()
def judge_images(judge: Judge, images: Sequence[Image.Image]) -> list[Judgement]:
    """Classify RGB images of 64 x 64 pixels, in batches of 250."""
    judgements: list[Judgement] = []
    for start in range(0, len(images), 250):
        stack = np.stack([np.asarray(i) for i in images[start : start + 250]])
        x = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
        best = {h: logits.argmax(1).tolist() for h, logits in judge(x).items()}
        judgements += [
            Judgement({h: HEADS[h][best[h][i]] for h in HEADS}) for i in range(len(stack))
        ]
    return judgements
