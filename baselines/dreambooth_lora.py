"""DreamBooth that trains low-rank adapters (LoRA) only (arXiv 2208.12242, 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL.Image import Image
from pydantic import Field
from torch import Tensor

from dbbench.advance import Advance
from dbbench.baselines.prior_preservation import PreservingSettings, train_preserving
from dbbench.baselines.training import given_checkpoint, given_word, snapshots
from dbbench.data.prompt import PromptTemplate
from dbbench.generation import lora
from dbbench.generation.backbone import Backbone
from dbbench.generation.checkpoints.lora_file import read_lora
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.resume import Saves
from dbbench.generation.tokens import choose_identifier
from dbbench.suites.sampling import SampleSettings

_FILE = "pytorch_lora_weights.safetensors"


class DreamBoothLora:
    """Trains adapters in the attention layers; the backbone's own weights stay frozen."""

    name = "dreambooth_lora"

    class Settings(PreservingSettings):
        """Usual choices for adapters; the paper gives none."""

        learning_rate: float = Field(
            default=1e-4, gt=0, description="AdamW's learning rate after warm-up"
        )
        identifier: str | None = Field(
            default=None,
            description="the rare word [V], of one token; by default drawn with the seed",
        )
        rank: int = Field(default=16, ge=1, description="rank of each adapter; its scale is 1")
        train_text_encoder: bool = Field(
            default=False, description="also train adapters in the text encoders' attention layers"
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
        """Train adapters, or take adapters trained elsewhere."""
        settings = self.settings
        path = given_checkpoint(settings, concept)
        if path is not None:
            tensors = read_lora(path, backbone)
            try:
                lora.load(backbone, tensors)
            finally:
                backbone.restore()
            word = given_word(settings.identifier, self.name)
            metadata = checkpoint_metadata(self, concept, backbone, seed=seed, identifier=word)
            return Checkpoint(files={_FILE: tensors}, metadata=metadata)
        identifier = choose_identifier(backbone.tokenizer, settings.identifier, seed=seed)
        parts = lora.parts_of(backbone, with_text=settings.train_text_encoder)

        def files() -> dict[str, dict[str, Tensor]]:
            return {_FILE: lora.weights(backbone, parts)}

        try:
            training = train_preserving(
                lora.add(backbone, parts, rank=settings.rank, seed=seed),
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
        checkpoint = Checkpoint(
            files=learned,
            metadata=checkpoint_metadata(self, concept, backbone, seed=seed, identifier=identifier),
            losses=training.losses[0],
        )
        return training.keep(checkpoint)

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
            lora.load(backbone, checkpoint.files[_FILE])
            yield from backbone.sample(texts, seeds=seeds, settings=sample)
        finally:
            backbone.restore()
