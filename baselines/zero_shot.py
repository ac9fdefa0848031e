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
from torch import Tensor

from dbbench.advance import Advance
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.loading import quiet
from dbbench.generation.method import Checkpoint, Concept, checkpoint_metadata
from dbbench.generation.originals import as_float32
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
        encoder, processor = self._image_encoder()
        pixels = processor(images=list(concept.images), return_tensors="pt").pixel_values
        with torch.no_grad():
            embeds: Tensor = encoder(pixels).image_embeds
        progress(1, 1, {})
        return Checkpoint(
            files={_FILE: {"image_embeds": embeds.contiguous()}},
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
        embeds = checkpoint.files[_FILE]["image_embeds"].to(backbone.device)[None]
        # The unconditional half of classifier-free guidance gets zeros, as in diffusers.
        both = torch.cat([torch.zeros_like(embeds), embeds])
        conditions = {"ip_adapter_image_embeds": [both if sample.guidance > 1 else embeds]}
        pipeline = backbone.pipeline
        try:
            self._load_adapter(backbone)
            yield from backbone.sample(texts, seeds=seeds, settings=sample, conditions=conditions)
        finally:
            pipeline.unload_ip_adapter()
            backbone.restore()

    def _load_adapter(self, backbone: Backbone) -> None:
        settings = self.settings
        try:
            with quiet(), as_float32(backbone.module(backbone.denoiser)):
                backbone.pipeline.load_ip_adapter(
                    settings.adapter,
                    subfolder=settings.subfolder,
                    weight_name=settings.weight_name,
                    image_encoder_folder=None,
                )
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the adapter {settings.adapter}/{settings.subfolder}/{settings.weight_name} cannot"
                f" be loaded into this backbone ({reason}); use one made for this backbone"
            ) from error
        backbone.pipeline.set_ip_adapter_scale(settings.scale)
        backbone.module(backbone.denoiser).requires_grad_(False).to(backbone.device)

    def _image_encoder(self) -> tuple[Any, Any]:
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        settings = self.settings
        local = Path(settings.adapter).expanduser()
        try:
            if local.is_dir():
                encoder = CLIPVisionModelWithProjection.from_pretrained(
                    local / settings.image_encoder
                )
            else:
                encoder = CLIPVisionModelWithProjection.from_pretrained(
                    settings.adapter, subfolder=settings.image_encoder
                )
        except (OSError, ValueError) as error:
            raise UserError(
                f"no image encoder {settings.image_encoder} in {settings.adapter}; where there is"
                f" network, run `hf download {settings.adapter} --local-dir FOLDER`, and set"
                " methods.zero_shot.adapter=FOLDER"
            ) from error
        size = encoder.config.image_size
        processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)
        return encoder.float().eval(), processor
