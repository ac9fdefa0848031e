"""The prior-preservation loss, which DreamBooth and Custom Diffusion train with.

Subject images are trained under the identifier, class images under the class noun alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from dbbench.advance import Advance
from dbbench.baselines.step import StepBatch
from dbbench.baselines.training import (
    Training,
    TrainSettings,
    encode_references,
    step_batches,
    train,
)
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.method import Concept
from dbbench.generation.resume import Saves


class PreservingSettings(TrainSettings):
    """Settings of all methods with this loss."""

    prior_weight: float = Field(
        default=1.0,
        ge=0,
        description="lambda of the prior-preservation loss (section 3.3); 0 turns it off",
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
    progress: Advance,
    saves: Saves | None,
    after_step: Callable[[int], None] | None = None,
) -> Training:
    """Minimise arXiv 2208.12242, eq. 2, over `parameters`.

    `prompts` are the subject's and the class's. They are encoded in each step if
    `text_changes`, otherwise once.
    """
    pools = [concept.images, concept.prior_images]
    if not settings.prior_weight:
        pools = pools[:1]
    elif not concept.prior_images:
        raise UserError(
            f'"{concept.class_noun}" has no prior images; set prior.count above 0, or'
            " prior_weight to 0"
        )
    prompts, size = prompts[: len(pools)], settings.batch_size
    posterior = encode_references(backbone, pools, flip=settings.horizontal_flip)
    tokens, encoded_once = backbone.tokenize(prompts), backbone.encode_prompts(prompts)

    def errors_of(batch: StepBatch) -> Tensor:
        text = backbone.encode_tokens(tokens) if text_changes else encoded_once
        return backbone.denoising_loss(
            posterior.draw(batch.index, batch.posterior_noise),
            text.repeat(size)[batch.rows],
            noise=batch.noise,
            timesteps=batch.timesteps,
        )

    shares = torch.tensor([[1.0, settings.prior_weight]], device=backbone.device)[:, : len(pools)]
    return train(
        backbone,
        [parameters],
        errors_of,
        shares.repeat_interleave(size, dim=1) / size,
        step_batches(backbone, settings, pools=[len(pool) for pool in pools], seed=seed),
        settings,
        progress=progress,
        after_step=after_step,
        saves=saves,
    )
