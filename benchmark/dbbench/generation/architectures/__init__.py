"""The supported pipeline classes, one file each; `Architecture` is their common interface."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from dbbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dbbench.generation.text import EncodedText, Tokens


class Architecture(Protocol):
    """What differs between pipelines; `Backbone` hides it from methods. Defaults: a UNet's."""

    pipeline: str
    """The name of its diffusers class."""
    denoiser: str = "unet"
    """The network that predicts, and is trained: "unet" or "transformer"."""
    multiple: int = 1
    """Height and width of latents must be multiples of this."""
    lora_targets: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    """The denoiser's linear layers that LoRA adapters are added to."""
    token_lengths: tuple[int | None, ...]
    """Tokens per text for each text encoder in turn; None: the tokenizer's own length."""

    def encode(self, pipeline: Any, tokens: Tokens) -> EncodedText:
        """Encode texts; gradients flow to weights that are being trained."""
        ...

    def unconditional(self, pipeline: Any, empty: EncodedText) -> EncodedText:
        """Return the text of classifier-free guidance without a prompt: the `empty` prompt."""
        return empty

    def predict(self, pipeline: Any, noisy: Tensor, times: Tensor, text: EncodedText) -> Tensor:
        """Return the denoiser's prediction for latents (N, C, h, w) at `times` (N,)."""
        ...


_MODULES = {
    "StableDiffusionPipeline": "stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "stable_diffusion_3:StableDiffusion3",
}
SUPPORTED = tuple(_MODULES)


def architecture(pipeline: str, *, source: str) -> Architecture:
    """Return the architecture of a pipeline class. Raises UserError if it is not supported."""
    if pipeline not in _MODULES:
        raise UserError(
            f"{source} is a {pipeline or 'pipeline without a class name'}, which cannot be a"
            f" backbone; give a {', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]}"
        )
    module, _, name = _MODULES[pipeline].partition(":")
    return cast("Architecture", getattr(import_module(f"{__name__}.{module}"), name)())


def text_encoders(pipeline: Any) -> tuple[str, ...]:
    """Return the names of the text encoders that a pipeline has, in its own order."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    return tuple(name for name in names if getattr(pipeline, name, None) is not None)


def tokenizer_of(text_encoder: str) -> str:
    """Return the name of a text encoder's tokenizer: "tokenizer_2" for "text_encoder_2"."""
    return text_encoder.replace("text_encoder", "tokenizer")
