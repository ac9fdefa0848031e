"""IP-Adapter: reference images condition the frozen backbone (arXiv 2308.06721).

The pattern for methods without training: `fit` encodes the references, `generate` uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor

from dbbench import hub
from dbbench.advance import Advance
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.checkpoints.adapter_file import (
    adapter_file,
    image_width,
    is_plus,
    load_adapter,
    read_adapter,
)
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.originals import as_float32
from dbbench.generation.pipelines.given import check_file, check_finite
from dbbench.generation.pipelines.loading import quiet
from dbbench.suites.sampling import SampleSettings

_FILE = "image_embeds.safetensors"


class ZeroShot:
    """Conditions the frozen backbone on the subject's images through an adapter."""

    name = "zero_shot"
    needs_prior = False

    class Settings(BaseModel):
        """Defaults are the published adapter for Stable Diffusion 1.5; others by path or hub id."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        adapter: str = Field(
            default="h94/IP-Adapter", description="folder or hub id with adapter and image encoder"
        )
        subfolder: str = Field(default="models", description="subfolder of the adapter's weights")
        weight_name: str = Field(
            default="ip-adapter_sd15.safetensors", description="file name of the adapter's weights"
        )
        image_encoder: str = Field(
            default="models/image_encoder", description="subfolder of the CLIP image encoder"
        )
        scale: float = Field(
            default=0.6, ge=0, le=1, description="weight of the image conditioning"
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Advance
    ) -> Checkpoint:
        """Encode the reference images; nothing is trained, so the losses are empty."""
        if backbone.denoiser != "unet":
            raise UserError(
                f"zero_shot needs a UNet for IP-Adapter, and this backbone is a"
                f" {backbone.denoiser}; use another method"
            )
        state = read_adapter(self._file(), backbone)
        encoder, processor = self._image_encoder()
        pixels = processor(images=list(concept.images), return_tensors="pt").pixel_values
        embeds = _embed(encoder, pixels, hidden=is_plus(state))
        if embeds.shape[-1] != image_width(state):
            raise UserError(
                f"the image encoder {self.settings.image_encoder} gives {embeds.shape[-1]} numbers"
                f" and the adapter {self.settings.weight_name} takes {image_width(state)}; set the"
                " image_encoder that belongs to it"
            )
        learned = {"image_embeds": embeds}
        if is_plus(state):  # its unconditional half is a black image's, in diffusers too
            learned["negative_embeds"] = _embed(encoder, torch.zeros_like(pixels), hidden=True)
        progress(1, 1, {})
        return Checkpoint(
            files={_FILE: learned},
            metadata=checkpoint_metadata(self, concept, backbone),
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
        """Generate the prompts, which name the class noun only, conditioned on the references."""
        texts = [prompt.render("", class_noun) for prompt in prompts]
        learned = {k: v.to(backbone.device)[None] for k, v in checkpoint.files[_FILE].items()}
        embeds = learned["image_embeds"]
        # The plain adapter's unconditional half of classifier-free guidance is zeros.
        negative = learned.get("negative_embeds", torch.zeros_like(embeds))
        both = torch.cat([negative, embeds])
        conditions = {"ip_adapter_image_embeds": [both if sample.guidance > 1 else embeds]}
        pipeline = backbone.pipeline
        try:
            self._load_adapter(backbone)
            yield from backbone.sample(texts, seeds=seeds, settings=sample, conditions=conditions)
        finally:
            pipeline.unload_ip_adapter()
            backbone.restore()

    def _file(self) -> Path:
        settings = self.settings
        return adapter_file(settings.adapter, settings.subfolder, settings.weight_name)

    def _load_adapter(self, backbone: Backbone) -> None:
        with as_float32(backbone.module(backbone.denoiser)):
            load_adapter(self._file(), backbone)
        backbone.pipeline.set_ip_adapter_scale(self.settings.scale)
        backbone.module(backbone.denoiser).requires_grad_(False).to(backbone.device)

    def _image_encoder(self) -> tuple[Any, Any]:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        settings = self.settings
        local = Path(settings.adapter).expanduser()
        place: dict[str, Any] = {"subfolder": settings.image_encoder}
        if local.is_dir():
            for file in (local / settings.image_encoder).glob("*"):
                check_file(file)
        try:
            with quiet():
                encoder, report = CLIPVisionModelWithProjection.from_pretrained(
                    local if local.is_dir() else settings.adapter,
                    use_safetensors=True,
                    output_loading_info=True,
                    **place,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = first if local.is_dir() else hub.explain(error, settings.adapter)
            raise UserError(
                f"no image encoder {settings.image_encoder} in {settings.adapter}: {reason}; or set"
                " methods.zero_shot.adapter=FOLDER"
            ) from error
        if lost := [*report["missing_keys"], *report["mismatched_keys"]]:
            raise UserError(
                f"the image encoder {settings.image_encoder} does not fit its own config.json:"
                f" {lost[0]} is missing ({len(lost)} tensors); copy the whole folder anew"
            )
        check_finite(encoder.state_dict().items(), settings.image_encoder)
        size = encoder.config.image_size
        processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
        return encoder.float().eval(), processor


@torch.no_grad()
def _embed(encoder: Any, pixels: Tensor, *, hidden: bool) -> Tensor:
    """Pixels NCHW -> pooled embeddings (N, D), or the last but one hidden states (N, L, D)."""
    output = encoder(pixels, output_hidden_states=hidden)
    embeds: Tensor = output.hidden_states[-2] if hidden else output.image_embeds
    return embeds.contiguous()
