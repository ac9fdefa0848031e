"""DreamBooth: fine-tune the whole denoiser to bind a rare word to a subject (arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from PIL.Image import Image
from pydantic import Field
from torch import Tensor

from dbbench.advance import Advance
from dbbench.baselines.prior_preservation import PreservingSettings, train_preserving
from dbbench.baselines.training import given_checkpoint, given_word, snapshots
from dbbench.data.prompt import PromptTemplate
from dbbench.generation.backbone import Backbone
from dbbench.generation.checkpoints.fine_tuned import read_fine_tuned
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.resume import Saves
from dbbench.generation.tokens import choose_identifier
from dbbench.suites.sampling import SampleSettings


class DreamBooth:
    """Trains on "a [V] [class noun]", and on class images so that the class is not forgotten."""

    name = "dreambooth"

    class Settings(PreservingSettings):
        """The paper's choices for Stable Diffusion; descriptions name what it leaves open."""

        identifier: str | None = Field(
            default=None,
            description="the rare word [V], of one token; by default drawn with the seed",
        )
        common_identifier: bool = Field(
            default=False,
            description="allow a common word as identifier, for comparison (section 3.2)",
        )
        train_text_encoder: bool = Field(
            default=False,
            description="also train the text encoder; not published for Stable Diffusion",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def needs_prior(self) -> bool:
        """Whether class images are needed: their loss has a weight, and training happens here."""
        return self.settings.prior_weight > 0 and self.settings.checkpoint is None

    def fit(
        self,
        concept: Concept,
        backbone: Backbone,
        *,
        seed: int,
        progress: Advance,
        saves: Saves | None = None,
    ) -> Checkpoint:
        """Fine-tune the denoiser (and text encoders), or take weights trained elsewhere."""
        settings = self.settings
        folder = given_checkpoint(settings, concept)
        if folder is not None:
            weights = read_fine_tuned(folder, backbone)
            word = given_word(settings.identifier, self.name)
            return self._checkpoint(weights, concept, backbone, seed, word)
        identifier = choose_identifier(
            backbone.tokenizer, settings.identifier, seed=seed, common=settings.common_identifier
        )
        trained = backbone.parts if settings.train_text_encoder else (backbone.denoiser,)

        def files() -> dict[str, dict[str, Tensor]]:
            return {backbone.file(part): backbone.weights(part) for part in trained}

        try:
            training = train_preserving(
                [weight for part in trained for weight in backbone.trainable(part).values()],
                concept,
                backbone,
                settings,
                prompts=[f"a {identifier} {concept.class_noun}", f"a {concept.class_noun}"],
                text_changes=settings.train_text_encoder,
                seed=seed,
                progress=progress,
                after_step=snapshots(concept, settings, files),
                saves=saves,
            )
            learned = files()
        finally:
            backbone.restore()
        return training.keep(
            self._checkpoint(
                learned, concept, backbone, seed, identifier, losses=training.losses[0]
            )
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
        """Generate the prompts with the identifier before the class noun."""
        identifier = checkpoint.metadata["identifier"]
        texts = [prompt.render(identifier, class_noun) for prompt in prompts]
        try:
            for part in backbone.parts:
                if backbone.file(part) in checkpoint.files:
                    backbone.load(part, checkpoint.files[backbone.file(part)])
            yield from backbone.sample(texts, seeds=seeds, settings=sample)
        finally:
            backbone.restore()

    def _checkpoint(
        self,
        files: Mapping[str, Mapping[str, Tensor]],
        concept: Concept,
        backbone: Backbone,
        seed: int,
        identifier: str,
        *,
        losses: Sequence[float] = (),
    ) -> Checkpoint:
        return Checkpoint(
            files=files,
            metadata=checkpoint_metadata(self, concept, backbone, seed=seed, identifier=identifier),
            losses=list(losses),
            configs={
                f"{part}/config.json": backbone.config(part)
                for part in backbone.parts
                if backbone.file(part) in files
            },
        )
