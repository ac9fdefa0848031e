"""DreamBooth: fine-tune the whole UNet to bind a rare word to a subject (arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL.Image import Image
from pydantic import Field
from torch import Tensor

from dbbench.backbone import Backbone, Part
from dbbench.baselines.training import Draw, TrainSettings, draws, encode_references, train
from dbbench.errors import UserError
from dbbench.method import Checkpoint, Concept, Progress
from dbbench.prompt import PromptTemplate
from dbbench.sampling import SampleSettings
from dbbench.tokens import choose_identifier

_FILES: dict[Part, str] = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


class DreamBooth:
    """Trains on "a [V] [class noun]" and, against forgetting, on the backbone's class images."""

    name = "dreambooth"

    class Settings(TrainSettings):
        """The paper's choices for Stable Diffusion; what it leaves open is in the descriptions."""

        identifier: str | None = Field(
            default=None, description="the rare word [V], of one token; none: the seed draws one"
        )
        prior_weight: float = Field(
            default=1.0,
            ge=0,
            description="lambda of the prior-preservation loss (section 3.3); 0 is off",
        )
        train_text_encoder: bool = Field(
            default=False,
            description="train the text encoder too; not published for Stable Diffusion",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def needs_prior(self) -> bool:
        """Class images are needed where their loss has a weight."""
        return self.settings.prior_weight > 0

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Checkpoint:
        """Fine-tune a copy of the UNet (and text encoder); the backbone is pristine afterwards."""
        settings = self.settings
        if self.needs_prior and not concept.prior_images:
            raise UserError(
                f'"{concept.class_noun}" has no prior images; set prior.count, or prior_weight to 0'
            )
        identifier = choose_identifier(backbone.tokenizer, settings.identifier, seed=seed)
        prompts = [f"a {identifier} {concept.class_noun}", f"a {concept.class_noun}"]
        pools = [concept.images, concept.prior_images]
        if not self.needs_prior:
            prompts, pools = prompts[:1], pools[:1]

        posterior = encode_references(backbone, pools, flip=settings.horizontal_flip)
        ids, states = backbone.tokenize(prompts), backbone.encode_prompts(prompts)
        weights = torch.tensor([1.0, settings.prior_weight], device=backbone.device)[: len(pools)]

        def loss_of(draw: Draw) -> Tensor:
            text = backbone.encode_tokens(ids) if settings.train_text_encoder else states
            errors = backbone.denoising_loss(
                posterior.draw(draw.index, draw.posterior_noise),
                text.repeat_interleave(settings.batch_size, dim=0),
                noise=draw.noise,
                timesteps=draw.timesteps,
            )
            return errors.view(len(pools), -1).mean(dim=1) @ weights

        trained: list[Part] = ["unet", "text_encoder"] if settings.train_text_encoder else ["unet"]
        try:
            losses = train(
                [weight for part in trained for weight in backbone.trainable(part)],
                loss_of,
                draws(backbone, settings, pools=[len(pool) for pool in pools], seed=seed),
                settings,
                progress=progress,
            )
            files = {_FILES[part]: backbone.weights(part) for part in trained}
        finally:
            backbone.restore()
        return Checkpoint(
            files=files,
            metadata={
                "method": self.name,
                "settings": settings.model_dump(),
                "seed": seed,
                "backbone": backbone.fingerprint,
                "identifier": identifier,
                "class_noun": concept.class_noun,
            },
            losses=losses,
            configs={f"{part}/config.json": backbone.config(part) for part in trained},
        )

    def generate(
        self,
        checkpoint: Checkpoint,
        prompts: Sequence[PromptTemplate],
        class_noun: str,
        backbone: Backbone,
        *,
        seeds: Sequence[int],
        sample: SampleSettings,
    ) -> Iterator[Image]:
        """Draw the prompts with the identifier before the class noun."""
        identifier = checkpoint.metadata["identifier"]
        texts = [prompt.render(identifier, class_noun) for prompt in prompts]
        try:
            for part, file in _FILES.items():
                if file in checkpoint.files:
                    backbone.load(part, checkpoint.files[file])
            yield from backbone.sample(texts, seeds=seeds, settings=sample)
        finally:
            backbone.restore()
