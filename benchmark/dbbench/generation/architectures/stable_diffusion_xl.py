"""SDXL: a UNet that attends to two text encoders; also conditioned on sizes and a pooled text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from dbbench.generation.architectures import Architecture
from dbbench.generation.text import EncodedText, Tokens


class StableDiffusionXL(Architecture):
    """StableDiffusionXLPipeline (arXiv 2307.01952), without its refiner."""

    pipeline = "StableDiffusionXLPipeline"
    token_lengths = (None, None)

    @override
    def encode(self, pipeline: Any, tokens: Tokens) -> EncodedText:
        """Return both encoders' penultimate hidden states, concatenated; pool the second's."""
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        outputs = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip(encoders, tokens.ids, strict=True)
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return EncodedText(states.float(), outputs[1].text_embeds.float())

    @override
    def unconditional(self, pipeline: Any, empty: EncodedText) -> EncodedText:
        """Return zeros if the pipeline was trained with them, otherwise the empty prompt."""
        return empty.zeros() if pipeline.config.force_zeros_for_empty_prompt else empty

    @override
    def predict(self, pipeline: Any, noisy: Tensor, times: Tensor, text: EncodedText) -> Tensor:
        """Return one forward pass of the UNet, with the size conditions of an uncropped image."""
        height, width = (side * pipeline.vae_scale_factor for side in noisy.shape[2:])
        # Original size, crop corner, target size (section 2.2); filled on the device.
        sizes = noisy.new_zeros(len(noisy), 6)
        sizes[:, 0::4], sizes[:, 1::4] = height, width
        prediction: Tensor = pipeline.unet(
            noisy,
            times,
            text.states,
            added_cond_kwargs={"text_embeds": text.pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        return prediction
