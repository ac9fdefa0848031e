"""IP-Adapter: reference images as a prompt, nothing is trained (arXiv 2308.06721).

The pattern for methods without training: `fit` keeps what the references say, `generate` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone
from dbbench.generation.loading import quiet
from dbbench.generation.method import Checkpoint, Concept, Progress, checkpoint_metadata
from dbbench.suites.sampling import SampleSettings

_FILE = "image_embeds.safetensors"


class ZeroShot:
    """Shows the subject's images to an adapter beside the frozen backbone."""

    name = "zero_shot"
    needs_prior = False

    class Settings(BaseModel):
        """The published adapter for Stable Diffusion 1.5; others by path or hub id."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        adapter: str = Field(
            default="h94/IP-Adapter", description="folder or hub id with adapter and image encoder"
        )
        subfolder: str = Field(default="models", description="where in it the adapter lies")
        weight_name: str = Field(
            default="ip-adapter_sd15.safetensors", description="the adapter's file"
        )
        image_encoder: str = Field(
            default="models/image_encoder", description="where in it the CLIP image encoder lies"
        )
        scale: float = Field(
            default=0.6, ge=0, le=1, description="weight of the images beside the text's"
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings()

    def fit(
        self, concept: Concept, backbone: Backbone, *, seed: int, progress: Progress
    ) -> Checkpoint:
        """Encode the reference images; nothing is learned, and so the losses are empty."""
        if backbone.denoiser != "unet":
            raise UserError(
                f"zero_shot puts IP-Adapter beside a UNet, and this backbone is a"
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
        """Draw the prompts, which name the class noun alone, beside the reference images."""
        texts = [prompt.render("", class_noun) for prompt in prompts]
        embeds = checkpoint.files[_FILE]["image_embeds"].to(backbone.device)[None]
        # Guidance leads away from zeros in place of images, as diffusers does.
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
            with quiet():
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
                f" be loaded beside this backbone ({reason}); give one that was made for it"
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
