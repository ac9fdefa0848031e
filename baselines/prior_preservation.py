"""DreamBooth's loss: a subject's images under its word, its class's images under the class noun."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from dbbench.baselines.training import (
    Draw,
    Training,
    TrainSettings,
    draws,
    encode_references,
    train,
)
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.method import Concept, Progress
from dbbench.generation.resume import Saves


class PreservingSettings(TrainSettings):
    """What every method with this loss lets one choose."""

    prior_weight: float = Field(
        default=1.0,
        ge=0,
        description="lambda of the prior-preservation loss (section 3.3); 0 is off",
    )


def train_preserving(
    parameters: Sequence[nn.Parameter],
    concept: Concept,
    backbone: Backbone,
    settings: PreservingSettings,
    *,
    prompts: Sequence[str],
    text_changes: bool,
    seed: int,
    progress: Progress,
    saves: Saves | None,
    after_step: Callable[[int], None] | None = None,
) -> Training:
    """Minimise arXiv 2208.12242, eq. 2, over `parameters`.

    `prompts` are the subject's and the class's. They are encoded anew in each step where
    `text_changes`, else once.
    """
    pools = [concept.images, concept.prior_images]
    if not settings.prior_weight:
        pools = pools[:1]
    elif not concept.prior_images:
        raise UserError(
            f'"{concept.class_noun}" has no prior images; set prior.count, or prior_weight to 0'
        )
    prompts, size = prompts[: len(pools)], settings.batch_size
    posterior = encode_references(backbone, pools, flip=settings.horizontal_flip)
    tokens, kept = backbone.tokenize(prompts), backbone.encode_prompts(prompts)

    def errors_of(draw: Draw) -> Tensor:
        text = backbone.encode_tokens(tokens) if text_changes else kept
        return backbone.denoising_loss(
            posterior.draw(draw.index, draw.posterior_noise),
            text.repeat(size)[draw.rows],
            noise=draw.noise,
            timesteps=draw.timesteps,
        )

    shares = torch.tensor([[1.0, settings.prior_weight]], device=backbone.device)[:, : len(pools)]
    return train(
        backbone,
        [parameters],
        errors_of,
        shares.repeat_interleave(size, dim=1) / size,
        draws(backbone, settings, pools=[len(pool) for pool in pools], seed=seed),
        settings,
        progress=progress,
        after_step=after_step,
        saves=saves,
    )
