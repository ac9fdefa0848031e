"""Textual Inversion: learn a new word for a subject and nothing else (arXiv 2208.01618)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from PIL.Image import Image
from pydantic import Field
from torch import Tensor, nn

from dbbench.backbone import Backbone
from dbbench.baselines.training import Draw, TrainSettings, draws, encode_references, train
from dbbench.errors import UserError
from dbbench.method import Checkpoint, Concept, Progress
from dbbench.prompt import NEUTRAL_TEMPLATES, PromptTemplate
from dbbench.sampling import SampleSettings

_FILE = "learned_embeds.safetensors"


class TextualInversion:
    """Trains the embedding of a new token; UNet, autoencoder and text encoder stay as they are."""

    name = "textual_inversion"
    needs_prior = False

    class Settings(TrainSettings):
        """The choices usual for Stable Diffusion; the paper's own are for another backbone."""

        steps: int = Field(default=3000, ge=1, description="optimizer steps")
        learning_rate: float = Field(
            default=2e-3, gt=0, description="5e-4 for each image in a batch"
        )
        batch_size: int = Field(default=4, ge=1, description="reference images in a step")
        n_vectors: int = Field(
            default=1, ge=1, description="embedding vectors that the new word stands for"
        )
        templates: tuple[str, ...] = Field(
            default=NEUTRAL_TEMPLATES,
            min_length=1,
            description="training prompts; {} is the new word",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Checkpoint:
        """Learn the vectors of a new word, beginning from those of the class noun."""
        settings = self.settings
        token = f"<{re.sub(r'[^a-z0-9]+', '-', concept.name.lower())}>"
        start = _class_vector(backbone, concept.class_noun)
        vectors = nn.Parameter(start.repeat(settings.n_vectors, 1))
        posterior = encode_references(backbone, [concept.images], flip=settings.horizontal_flip)
        with backbone.added_tokens(token, vectors):
            ids = _contexts(backbone, token, settings)

            def loss_of(draw: Draw) -> Tensor:
                latents = posterior.draw(draw.index, draw.posterior_noise)
                text = backbone.encode_tokens(ids[draw.context])
                return backbone.denoising_loss(
                    latents, text, noise=draw.noise, timesteps=draw.timesteps
                ).mean()

            losses = train(
                [vectors],
                loss_of,
                draws(
                    backbone,
                    settings,
                    pools=[len(concept.images)],
                    seed=seed,
                    contexts=len(ids),
                ),
                settings,
                progress=progress,
            )
        return Checkpoint(
            files={_FILE: {token: vectors.detach().cpu().clone()}},
            metadata={
                "method": self.name,
                "settings": settings.model_dump(),
                "seed": seed,
                "backbone": backbone.fingerprint,
                "token": token,
                "class_noun": concept.class_noun,
            },
            losses=losses,
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
        """Draw the prompts with the new word in place of the class noun."""
        ((token, vectors),) = checkpoint.files[_FILE].items()
        texts = [prompt.render(token, "") for prompt in prompts]
        with backbone.added_tokens(token, vectors.to(backbone.device)):
            return backbone.sample(texts, seeds=seeds, settings=sample)


def _contexts(backbone: Backbone, token: str, settings: TextualInversion.Settings) -> Tensor:
    """Token ids (T, L) of the templates in which the new word is not cut off by the text's end."""
    ids = backbone.tokenize([text.format(token) for text in settings.templates])
    first = backbone.tokenizer.convert_tokens_to_ids(token)
    whole = (ids >= first).sum(dim=1) == settings.n_vectors
    if not whole.any():
        raise UserError(
            f"no template leaves room for {settings.n_vectors} vectors in {ids.shape[1]} tokens;"
            " set fewer vectors or templates of words that the tokenizer knows"
        )
    return ids[whole]


def _class_vector(backbone: Backbone, class_noun: str) -> Tensor:
    """The mean (D,) of the embeddings of the class noun's tokens."""
    ids = backbone.tokenizer(class_noun, add_special_tokens=False).input_ids
    rows: Tensor = backbone.pipeline.text_encoder.get_input_embeddings().weight[ids]
    return rows.mean(dim=0)
