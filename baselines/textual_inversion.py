"""Textual Inversion: learn a placeholder token for a subject only (arXiv 2208.01618)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from PIL.Image import Image
from pydantic import Field
from torch import Tensor, nn

from dbbench.advance import Advance
from dbbench.baselines.step import StepBatch
from dbbench.baselines.training import (
    TrainSettings,
    encode_references,
    given_checkpoint,
    join_batches,
    snapshots,
    step_batches,
    train,
)
from dbbench.data.prompt import NEUTRAL_TEMPLATES, PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.architectures import tokenizer_of
from dbbench.generation.backbone import Backbone
from dbbench.generation.checkpoints.inversion_file import read_inversion
from dbbench.generation.latents import Posterior
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.resume import Saves
from dbbench.generation.text import Tokens
from dbbench.generation.tokens import embeddings_of, find_vectors, name_vectors, new_word
from dbbench.suites.sampling import SampleSettings

_FILE = "learned_embeds.safetensors"


class TextualInversion:
    """Trains the embedding of a new token; all networks stay frozen.

    Several subjects can be trained together (`fit_many`): they share the passes through the frozen
    networks. Each has its own vectors, batches, gradient norm and optimizer state.
    """

    name = "textual_inversion"
    needs_prior = False

    class Settings(TrainSettings):
        """Usual choices for Stable Diffusion; the paper's own are for another backbone."""

        steps: int = Field(default=3000, ge=1, description="optimizer steps")
        learning_rate: float = Field(
            default=2e-3, gt=0, description="5e-4 for each image in a batch"
        )
        batch_size: int = Field(default=4, ge=1, description="reference images per step")
        n_vectors: int = Field(default=1, ge=1, description="embedding vectors of the new token")
        templates: tuple[str, ...] = Field(
            default=NEUTRAL_TEMPLATES,
            min_length=1,
            description="training prompts; {} is replaced by the new token",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self,
        concept: Concept,
        backbone: Backbone,
        *,
        seed: int,
        progress: Advance,
        saves: Saves | None = None,
    ) -> Checkpoint:
        """Learn the vectors of a new token, initialized with the class noun's."""
        (checkpoint,) = self.fit_many(
            [concept], backbone, seeds=[seed], progress=progress, saves=saves
        )
        return checkpoint

    def fit_many(
        self,
        concepts: Sequence[Concept],
        backbone: Backbone,
        *,
        seeds: Sequence[int],
        progress: Advance,
        saves: Saves | None = None,
    ) -> list[Checkpoint]:
        """Learn the tokens of several concepts together; each result is as if trained alone."""
        settings, size = self.settings, self.settings.batch_size
        if settings.checkpoint is not None:
            return [
                self._checkpoint(concept, backbone, seed, _given(concept, backbone, settings))
                for concept, seed in zip(concepts, seeds, strict=True)
            ]
        words = {
            new_word(concept.name): _start(concept, backbone, settings) for concept in concepts
        }
        posteriors = [
            encode_references(backbone, [concept.images], flip=settings.horizontal_flip)
            for concept in concepts
        ]
        posterior = Posterior(
            torch.cat([part.mean for part in posteriors]),
            torch.cat([part.std for part in posteriors]),
        )
        with backbone.added_tokens(words):
            contexts = [_contexts(backbone, word, settings) for word in words]
            tokens = Tokens(
                tuple(torch.cat(ids) for ids in zip(*(c.ids for c in contexts), strict=True))
            )
            count = len(contexts[0])

            def errors_of(batch: StepBatch) -> Tensor:
                return backbone.denoising_loss(
                    posterior.draw(batch.index, batch.posterior_noise),
                    backbone.encode_tokens(tokens[batch.context]),
                    noise=batch.noise,
                    timesteps=batch.timesteps,
                )

            own = [
                step_batches(backbone, settings, pools=[len(c.images)], seed=seed, contexts=count)
                for c, seed in zip(concepts, seeds, strict=True)
            ]
            rows = [len(part.mean) for part in posteriors]
            keep = [
                snapshots(concept, settings, partial(_files, word, vectors))
                for concept, (word, vectors) in zip(concepts, words.items(), strict=True)
            ]

            def after_step(done: int) -> None:
                for each in keep:
                    each(done)

            shares = torch.eye(len(concepts), device=backbone.device) / size
            training = train(
                backbone,
                list(words.values()),
                errors_of,
                shares.repeat_interleave(size, dim=1),
                join_batches(own, images=rows, contexts=count),
                settings,
                progress=progress,
                after_step=after_step,
                saves=saves,
            )
        learned = zip(concepts, seeds, words.items(), training.losses, strict=True)
        return [
            training.keep(self._checkpoint(concept, backbone, seed, word, losses))
            for concept, seed, word, losses in learned
        ]

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
        """Generate the prompts with the new token in place of the class noun."""
        word = checkpoint.metadata["token"]
        texts = [prompt.render(word, "") for prompt in prompts]
        vectors = find_vectors(word, checkpoint.files[_FILE], backbone)
        with backbone.added_tokens({word: vectors}):
            return backbone.sample(texts, seeds=seeds, settings=sample)

    def _checkpoint(
        self,
        concept: Concept,
        backbone: Backbone,
        seed: int,
        learned: tuple[str, Sequence[Tensor]],
        losses: Sequence[float] = (),
    ) -> Checkpoint:
        word, vectors = learned
        return Checkpoint(
            files=_files(word, vectors),
            metadata=checkpoint_metadata(self, concept, backbone, seed=seed, token=word),
            losses=list(losses),
        )


def _files(word: str, vectors: Sequence[Tensor]) -> dict[str, dict[str, Tensor]]:
    return {_FILE: name_vectors(word, vectors)}


def _start(
    concept: Concept, backbone: Backbone, settings: TextualInversion.Settings
) -> list[nn.Parameter]:
    """Return initial vectors (n, D) for each text encoder: the class noun's mean embedding."""
    return [
        nn.Parameter(vector.repeat(settings.n_vectors, 1))
        for vector in embeddings_of(backbone, concept.class_noun)
    ]


def _contexts(backbone: Backbone, word: str, settings: TextualInversion.Settings) -> Tokens:
    """Tokenize the templates; keep those in which no vector of the new token is truncated."""
    tokens = backbone.tokenize([text.format(word) for text in settings.templates])
    whole = torch.ones(len(tokens), dtype=torch.bool, device=backbone.device)
    for part, ids in zip(backbone.text_encoders, tokens.ids, strict=True):
        tokenizer = getattr(backbone.pipeline, tokenizer_of(part))
        first = tokenizer.convert_tokens_to_ids(word)
        of_word = (ids >= first) & (ids < first + settings.n_vectors)
        whole &= of_word.sum(dim=1) == settings.n_vectors
    if not whole.any():
        raise UserError(
            f"no template leaves room for {settings.n_vectors} vectors in"
            f" {tokens.ids[0].shape[1]} tokens; set fewer vectors or templates of words that the"
            " tokenizer knows"
        )
    return tokens[whole]


def _given(
    concept: Concept, backbone: Backbone, settings: TextualInversion.Settings
) -> tuple[str, list[Tensor]]:
    """Return the token and its vectors from a file trained elsewhere."""
    path = given_checkpoint(settings, concept)
    assert path is not None
    return read_inversion(path, backbone, subject=concept.name)
