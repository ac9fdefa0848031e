"""A loaded pipeline's configs: each setting that changes an image is understood, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dbbench.errors import UserError
from dbbench.generation.architectures import text_encoders, tokenizer_of

# The solvers whose noise schedule the training and every solver of a suite rebuild exactly.
_SCHEDULERS = {
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
}  # fmt: skip
_PREDICTIONS = {"epsilon", "v_prediction", "sample"}
# A denoiser that has one of these takes another input than latents, time and text.
_EXTRA_INPUTS = (
    "time_cond_proj_dim", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type",
    "cross_attention_norm", "mid_block_only_cross_attention",
)  # fmt: skip


OLD_END = 2


def settle(pipeline: Any) -> None:
    """Refuse what is not understood, and complete what real configs leave out or state wrongly.

    A tokenizer without a length gets its text encoder's. A text encoder pools at its tokenizer's
    own end token: old configs say 2, with which transformers takes the highest id instead, and that
    is a placeholder's as soon as one is added. Raises UserError.
    """
    for problem in _problems(pipeline):
        raise UserError(f"this backbone cannot be used: {problem}; use another one")
    for part in text_encoders(pipeline):
        encoder, tokenizer = getattr(pipeline, part), getattr(pipeline, tokenizer_of(part))
        positions = getattr(encoder.config, "max_position_embeddings", None)
        if positions is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, int(positions))
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == OLD_END:
                module.eos_token_id = tokenizer.eos_token_id


def _problems(pipeline: Any) -> Iterator[str]:
    yield from _scheduler_problems(pipeline.scheduler)
    kind = type(pipeline).__name__
    vae = pipeline.vae.config
    for key in ("latents_mean", "latents_std"):
        if kind != "StableDiffusionXLPipeline" and getattr(vae, key, None) is not None:
            yield f"its vae/config.json has {key}, which {kind} does not use"
    encoder = getattr(pipeline, "text_encoder", None)
    uses_mask = getattr(getattr(encoder, "config", None), "use_attention_mask", None)
    if kind == "StableDiffusionPipeline" and uses_mask:
        yield "its text_encoder/config.json has use_attention_mask, and texts are encoded without"
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    yield from _denoiser_problems(denoiser.config, vae, kind)


def _scheduler_problems(scheduler: Any) -> Iterator[str]:
    kind, config = type(scheduler).__name__, scheduler.config
    if kind not in _SCHEDULERS:
        yield f"its scheduler is a {kind}, whose noise is not rebuilt here"
    prediction = config.get("prediction_type", "epsilon")
    if kind != "FlowMatchEulerDiscreteScheduler" and prediction not in _PREDICTIONS:
        yield f"its scheduler/scheduler_config.json has prediction_type {prediction}"
    if config.get("use_dynamic_shifting"):
        yield "its scheduler/scheduler_config.json has use_dynamic_shifting"


def _denoiser_problems(config: Any, vae: Any, kind: str) -> Iterator[str]:
    channels = getattr(vae, "latent_channels", None)
    for key in ("in_channels", "out_channels"):
        own = getattr(config, key, None)
        if channels is not None and own is not None and own != channels:
            yield f"its denoiser has {key} {own} and its autoencoder {channels} channels"
    for key in _EXTRA_INPUTS:
        if getattr(config, key, None):
            yield f"its unet/config.json has {key} {getattr(config, key)}"
    added = getattr(config, "addition_embed_type", None)
    wanted = "text_time" if kind == "StableDiffusionXLPipeline" else None
    if added != wanted:
        yield f"its unet/config.json has addition_embed_type {added}, not {wanted}"
