"""Stable Diffusion 1.x and 2.x: a UNet that attends to one text encoder's last hidden states."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from dbbench.generation.architectures import Architecture
from dbbench.generation.text import EncodedText, Tokens


class StableDiffusion(Architecture):
    """StableDiffusionPipeline; 1.4, 1.5 and 2.1 differ only in their configurations."""

    pipeline = "StableDiffusionPipeline"
    token_lengths = (None,)

    @override
    def encode(self, pipeline: Any, tokens: Tokens) -> EncodedText:
        """Return the last layer's hidden states, after the final layer norm."""
        return EncodedText(pipeline.text_encoder(tokens.ids[0])[0].float())

    @override
    def predict(self, pipeline: Any, noisy: Tensor, times: Tensor, text: EncodedText) -> Tensor:
        """Return one forward pass of the UNet."""
        prediction: Tensor = pipeline.unet(noisy, times, text.states, return_dict=False)[0]
        return prediction
