"""Counts what one image keeps for the backward pass, at real size, on no device.

    python benchmark/measurements/speed/activations.py [sd15 sdxl sd3]

The numbers are those of benchmark/dbbench/generation/recipes.py. Networks and tensors are PyTorch's
fake ones, which have shapes and no memory; autocast follows CUDA's rules, and attention is the
fused kernel, which keeps no matrix. Counted are the distinct buffers that autograd saves, except
weights; two images minus one leaves out what a pass keeps once, the bfloat16 copies of weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dbbench.generation.architectures import architecture
from dbbench.generation.recipes import GIB, What

NAMES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
}
RANK = 16


def kept(name: str, what: What) -> float:
    """Return the GiB that an image keeps in suite paper, sdxl or sd3: 512 or 1024 pixels."""
    text = sum(per_image(build) for build in _TEXT[name]) if what == "words" else 0.0
    return per_image(lambda: _denoiser(name, what)) + text


def per_image(build: Callable[[], tuple[nn.Module, Callable[[int], Any]]]) -> float:
    """Return the GiB that one more image keeps; `build` makes a network and its call."""
    counts = []
    for images in (1, 2):
        with _fake(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network, call = build()
            weights = {_key(weight) for weight in (*network.parameters(), *network.buffers())}
            saved: dict[int, Tensor] = {}

            def keep(
                tensor: Tensor, weights: set[int] = weights, saved: dict[int, Tensor] = saved
            ) -> Tensor:
                if _key(tensor) not in weights:
                    saved[_key(tensor)] = tensor
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                result = call(images)
            counts.append(sum(each.untyped_storage().nbytes() for each in saved.values()))
            del result
    return (counts[1] - counts[0]) / GIB


def _denoiser(name: str, what: What) -> tuple[nn.Module, Callable[[int], Any]]:
    network, call = _DENOISERS[name]()
    network.requires_grad_(what == "whole")
    if what == "adapters":
        targets = architecture(NAMES[name], source=name).lora_targets
        for layer_name, layer in list(network.named_modules()):
            if isinstance(layer, nn.Linear) and layer_name.endswith(targets):
                parent, _, own = layer_name.rpartition(".")
                setattr(network.get_submodule(parent), own, _Adapter(layer))
    return network, lambda images: call(images, what == "words")


class _Adapter(nn.Module):
    """A linear layer with a low-rank adapter, as peft's."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, base.out_features, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        added: Tensor = self.up(self.down(states.float()))
        return self.base(states) + added


def _sd15() -> tuple[nn.Module, Any]:
    unet = UNet2DConditionModel(cross_attention_dim=768)

    def call(images: int, through: bool) -> Any:
        text = torch.empty(images, 77, 768, requires_grad=through)
        return unet(_latents(images, 4, 64), torch.empty(images), text)

    return unet, call


def _sdxl() -> tuple[nn.Module, Any]:
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )

    def call(images: int, through: bool) -> Any:
        text = torch.empty(images, 77, 2048, requires_grad=through)
        pooled = torch.empty(images, 1280, requires_grad=through)
        added = {"text_embeds": pooled, "time_ids": torch.empty(images, 6)}
        latents = _latents(images, 4, 128)
        return unet(latents, torch.empty(images), text, added_cond_kwargs=added)

    return unet, call


def _sd3() -> tuple[nn.Module, Any]:
    network = SD3Transformer2DModel(
        num_layers=24, num_attention_heads=24, caption_projection_dim=1536,
        joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=192,
    )  # fmt: skip

    def call(images: int, through: bool) -> Any:
        text = torch.empty(images, 333, 4096, requires_grad=through)
        pooled = torch.empty(images, 2048, requires_grad=through)
        return network(_latents(images, 16, 128), text, pooled, torch.empty(images))

    return network, call


def _clip(width: int, layers: int, heads: int) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=77,
        )  # fmt: skip
        encoder = CLIPTextModel(config).requires_grad_(False)
        encoder.set_input_embeddings(_Words(width))
        ids = lambda images: torch.zeros(images, 77, dtype=torch.long)  # noqa: E731
        return encoder, lambda images: encoder(ids(images), output_hidden_states=True)

    return build


def _t5() -> tuple[nn.Module, Any]:
    config = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    encoder = T5EncoderModel(config).requires_grad_(False)
    return encoder, lambda images: encoder(
        inputs_embeds=torch.empty(images, 256, 4096, requires_grad=True)
    )


class _Words(nn.Module):
    """Embeddings that are being learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, ids: Tensor) -> Tensor:
        return torch.empty(*ids.shape, self.width, requires_grad=True)


_DENOISERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd3": _sd3,
}
_SMALL, _LARGE = _clip(768, 12, 12), _clip(1280, 32, 20)
_TEXT: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], ...]] = {
    "sd15": (_SMALL,),
    "sdxl": (_SMALL, _LARGE),
    "sd3": (_SMALL, _LARGE, _t5),
}


def _latents(images: int, channels: int, side: int) -> Tensor:
    return torch.empty(images, channels, side, side).to(memory_format=torch.channels_last)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def _fake() -> Iterator[None]:
    """Let everything be fake, on CUDA, under its autocast, with attention in the fused kernel."""
    attention = nn.functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **named: Any) -> Tensor:
        half = [each.to(torch.bfloat16) for each in (query, key, value)]
        scale = named.get("scale")
        result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(*half, scale=scale)[0]
        return result

    with FakeTensorMode(allow_non_fake_inputs=True):
        nn.functional.scaled_dot_product_attention = fused
        torch.set_default_device("cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            nn.functional.scaled_dot_product_attention = attention
            torch.set_default_device(None)
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()
            torch.set_autocast_enabled("cuda", False)


def main(names: list[str]) -> None:
    """Print a line for each kind of training."""
    kinds: tuple[What, ...] = ("whole", "adapters", "words")
    for name in names or list(NAMES):
        found = ", ".join(f"{what} {kept(name, what):.2f}" for what in kinds)
        print(f"{name}: {found} GiB an image", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
