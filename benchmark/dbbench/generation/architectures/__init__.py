"""The kinds of pipeline that can be a backbone, one file each; `Architecture` is their seam."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from dbbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dbbench.generation.text import Text, Tokens


class Architecture(Protocol):
    """What differs between pipelines; a method sees none of it."""

    pipeline: str
    """diffusers' class of it."""
    denoiser: str
    """The component that predicts, and so is trained: "unet" or "transformer"."""
    multiple: int
    """Latents' height and width are multiples of this."""
    lora_targets: tuple[str, ...]
    """The denoiser's linear layers that a LoRA is beside."""
    token_lengths: tuple[int | None, ...]
    """Of each text encoder in turn; None takes the tokenizer's own length."""

    def encode(self, pipeline: Any, tokens: Tokens) -> Text:
        """Encode texts, with gradients where something is trained."""
        ...

    def unconditional(self, pipeline: Any, empty: Text) -> Text:
        """Return what guidance leads away from, given the empty prompt."""
        ...

    def predict(self, pipeline: Any, noisy: Tensor, times: Tensor, text: Text) -> Tensor:
        """Return the denoiser's prediction for latents (N, C, h, w) at `times` (N,)."""
        ...


_MODULES = {
    "StableDiffusionPipeline": "stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "stable_diffusion_xl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "stable_diffusion_3:StableDiffusion3",
}
SUPPORTED = tuple(_MODULES)


def architecture(pipeline: str, *, source: str) -> Architecture:
    """Return the architecture of a pipeline's class. Raises UserError for one without."""
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
    """Return the name of the tokenizer that feeds a text encoder: "text_encoder_2" has its own."""
    return text_encoder.replace("text_encoder", "tokenizer")
