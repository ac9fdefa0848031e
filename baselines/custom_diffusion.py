"""Custom Diffusion: train the cross-attention projections and a new token (arXiv 2212.04488)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from PIL.Image import Image
from pydantic import Field
from torch import Tensor, nn

from dbbench.advance import Advance
from dbbench.baselines.prior_preservation import PreservingSettings, train_preserving
from dbbench.baselines.training import snapshots
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.resume import Saves
from dbbench.generation.tokens import (
    choose_identifier,
    embeddings_of,
    find_vectors,
    name_vectors,
    new_word,
)
from dbbench.suites.sampling import SampleSettings

# The names that diffusers' load_attn_procs and load_textual_inversion expect.
_PROJECTIONS = "pytorch_custom_diffusion_weights.safetensors"
_WORD = "learned_embeds.safetensors"
_KEY_AND_VALUE = (".attn2.to_k.weight", ".attn2.to_v.weight")


class CustomDiffusion:
    """Trains the cross-attention's key and value projections, and a modifier token before the noun.

    Three things of the authors' code are left out: random mirroring and scaling of images,
    stopping the gradient at the first text token, and retrieval of real class images.
    """

    name = "custom_diffusion"

    class Settings(PreservingSettings):
        """The paper's choices (section 4), with a batch size that fits one GPU."""

        steps: int = Field(default=250, ge=1, description="optimizer steps")
        learning_rate: float = Field(
            default=2e-5, gt=0, description="1e-5 for each image in a batch"
        )
        batch_size: int = Field(default=2, ge=1, description="reference images per step")
        initial_word: str | None = Field(
            default=None,
            description="rare word, of one token, that initializes the modifier; by default drawn",
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def needs_prior(self) -> bool:
        """Whether class images are needed: their loss has a weight."""
        return self.settings.prior_weight > 0

    def fit(
        self,
        concept: Concept,
        backbone: Backbone,
        *,
        seed: int,
        progress: Advance,
        saves: Saves | None = None,
    ) -> Checkpoint:
        """Train the projections and the modifier together; the backbone is pristine afterwards."""
        settings = self.settings
        if settings.checkpoint is not None:
            raise UserError(
                "custom_diffusion loads no weights trained elsewhere; remove its setting checkpoint"
            )
        if backbone.denoiser != "unet":
            raise UserError(
                f"custom_diffusion trains the cross-attention of a UNet, and this backbone is a"
                f" {backbone.denoiser}; use dreambooth_lora"
            )
        initial = choose_identifier(backbone.tokenizer, settings.initial_word, seed=seed)
        word, class_noun = new_word(concept.name), concept.class_noun
        vectors = [nn.Parameter(vector[None]) for vector in embeddings_of(backbone, initial)]
        try:
            projections = backbone.trainable(backbone.denoiser, ending=_KEY_AND_VALUE)

            def files() -> dict[str, dict[str, Tensor]]:
                learned = _pack(projections)
                return {_PROJECTIONS: learned, _WORD: name_vectors(word, vectors)}

            with backbone.added_tokens({word: vectors}):
                training = train_preserving(
                    [*projections.values(), *vectors],
                    concept,
                    backbone,
                    settings,
                    prompts=[f"photo of a {noun}" for noun in (f"{word} {class_noun}", class_noun)],
                    text_changes=True,
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
            metadata=checkpoint_metadata(
                self, concept, backbone, seed=seed, token=word, initial_word=initial
            ),
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
        """Generate the prompts with the modifier before the class noun."""
        word = checkpoint.metadata["token"]
        vectors = find_vectors(word, checkpoint.files[_WORD], backbone)
        texts = [prompt.render(word, class_noun) for prompt in prompts]
        try:
            state = backbone.weights(backbone.denoiser)
            backbone.load(backbone.denoiser, state | _unpack(checkpoint.files[_PROJECTIONS]))
            with backbone.added_tokens({word: vectors}):
                images = backbone.sample(texts, seeds=seeds, settings=sample)
            yield from images
        finally:
            backbone.restore()


def _pack(projections: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the projections as diffusers' attention processors do.

    diffusers also expects an empty entry for each self-attention layer.
    """
    packed: dict[str, Tensor] = {}
    for name, weight in projections.items():
        attention, _, layer = name.removesuffix(".weight").rpartition(".")
        tensor = weight.detach().to("cpu", copy=True).contiguous()
        packed[f"{attention}.processor.{layer}_custom_diffusion.weight"] = tensor
        packed[f"{attention.removesuffix('attn2')}attn1.processor"] = torch.zeros(0)
    return packed


def _unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the projections as the denoiser's state dict does."""
    return {
        name.replace(".processor.", ".").replace("_custom_diffusion.", "."): weight
        for name, weight in packed.items()
        if name.endswith(".weight")
    }
