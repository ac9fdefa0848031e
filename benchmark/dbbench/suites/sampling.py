"""How samples are drawn: the settings that suite and backbone share, free of torch."""

from typing import Literal

from pydantic import Field

from dbbench.validation import Settings

Scheduler = Literal["ddim", "ddpm", "pndm", "dpmsolver++", "euler", "euler-ancestral", "unipc"]


class SampleSettings(Settings):
    """Choices of one sampling pass; all but `batch_size` change the images."""

    scheduler: Scheduler = Field(
        default="ddim", description="solver, built from the backbone's own noise schedule"
    )
    steps: int = Field(default=50, ge=1, description="solver steps for each image")
    guidance: float = Field(
        default=7.5, ge=0, description="classifier-free guidance scale; 1 or less is none"
    )
    images_per_prompt: int = Field(
        default=4, ge=1, description="images for each prompt, each with a seed of its own"
    )
    batch_size: int = Field(
        default=16, ge=1, description="images denoised together; speed and memory only"
    )
