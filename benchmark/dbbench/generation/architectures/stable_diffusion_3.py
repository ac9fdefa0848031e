"""Stable Diffusion 3 and 3.5: a flow-matching transformer with three text encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from dbbench.generation.architectures import Architecture
from dbbench.generation.text import EncodedText, Tokens

T5_LENGTH = 256  # the pipeline's default


class StableDiffusion3(Architecture):
    """StableDiffusion3Pipeline (arXiv 2403.03206); its T5 encoder is optional."""

    pipeline = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    multiple = 2  # the side of the transformer's patches
    lora_targets = (
        "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0",
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    )  # fmt: skip
    token_lengths = (None, None, T5_LENGTH)

    @override
    def encode(self, pipeline: Any, tokens: Tokens) -> EncodedText:
        """Return both CLIP hidden states, concatenated and zero-padded to T5's width, then T5's."""
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
        outputs = [
            encoder(ids, output_hidden_states=True)
            for encoder, ids in zip(encoders, tokens.ids, strict=False)
        ]
        clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
        width = pipeline.transformer.config.joint_attention_dim
        if pipeline.text_encoder_3 is None:
            t5 = clip.new_zeros(len(clip), T5_LENGTH, width)
        else:
            t5 = pipeline.text_encoder_3(tokens.ids[2])[0]
        states = torch.cat([pad(clip, (0, width - clip.shape[-1])), t5], dim=1)
        return EncodedText(states.float(), pooled.float())

    @override
    def predict(self, pipeline: Any, noisy: Tensor, times: Tensor, text: EncodedText) -> Tensor:
        """Return one forward pass of the transformer."""
        prediction: Tensor = pipeline.transformer(
            hidden_states=noisy,
            timestep=times,
            encoder_hidden_states=text.states,
            pooled_projections=text.pooled,
            return_dict=False,
        )[0]
        return prediction
