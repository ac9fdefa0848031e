"""The frozen text-to-image model under every run: latents, text, loss and samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from functools import cached_property
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor, nn

from dbbench.errors import UserError
from dbbench.latents import LatentCodec, Posterior
from dbbench.loading import load_pipeline
from dbbench.noise import NoiseSchedule, build_solver
from dbbench.sampling import SampleSettings
from dbbench.tokens import ExtendedEmbedding

DType = Literal["auto", "float32", "bfloat16"]
Part = Literal["unet", "text_encoder"]
PARTS: tuple[Part, ...] = ("unet", "text_encoder")

TEXTS_PER_PASS = 64


class Backbone:
    """A StableDiffusionPipeline, frozen, with what methods need of it; one serves run after run.

    Weights stay float32. `restore` undoes whatever a run did to the UNet and the text encoder.
    """

    def __init__(
        self, pipeline: Any, *, resolution: int, device: str, dtype: DType = "auto"
    ) -> None:
        factor = pipeline.vae_scale_factor
        if resolution % factor:
            raise UserError(f"resolution {resolution} is not a multiple of {factor}; choose one")
        self.pipeline = pipeline.to(device)
        self.resolution = resolution
        self.device = torch.device(device)
        # bfloat16 halves a GPU's time; on most CPUs it costs ten times more.
        self._half = dtype == "bfloat16" or (dtype == "auto" and self.device.type == "cuda")
        for module in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
            module.float().requires_grad_(False).eval()
        for module in (pipeline.unet, pipeline.vae):
            module.to(memory_format=torch.channels_last)
        self._codec = LatentCodec(pipeline, resolution=resolution)
        self._pristine = {part: self.weights(part) for part in PARTS}
        self.schedule = NoiseSchedule(pipeline.scheduler.config, self.device)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with the tokens of `added_tokens` while that is open."""
        return self.pipeline.tokenizer

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image's latents."""
        side = self.resolution // self.pipeline.vae_scale_factor
        return (int(self.pipeline.unet.config.in_channels), side, side)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and choices that reach an image, whatever the files' layout."""
        digest = hashlib.sha256()
        states = [*self._pristine.items(), ("vae", self.pipeline.vae.state_dict())]
        for part, state in states:
            for name, tensor in sorted(state.items()):
                # transformers 5 dropped this prefix from the names of the same weights.
                digest.update(f"{part}/{name.removeprefix('text_model.')}{tensor.shape}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        parts = (self.pipeline.scheduler, self.pipeline.unet, self.pipeline.vae)
        configs = [
            sorted((key, repr(value)) for key, value in part.config.items() if key[0] != "_")
            for part in parts
        ]
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        length = self.tokenizer.model_max_length
        digest.update(repr((vocabulary, length, configs, self.resolution, self._half)).encode())
        return digest.hexdigest()

    def restore(self) -> None:
        """Put the pristine weights back, bit for bit, and freeze them."""
        for part in PARTS:
            self.load(part, self._pristine[part])

    def load(self, part: Part, state: Mapping[str, Tensor]) -> None:
        """Copy `state` over the weights of `part`, and freeze them.

        Raises UserError where names or shapes are not this backbone's.
        """
        module = self._module(part)
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint's {part} does not fit this backbone"
                f" ({str(error).splitlines()[-1].strip()}); use the one that it was trained on"
            ) from error
        module.requires_grad_(False)

    def trainable(self, part: Part) -> list[nn.Parameter]:
        """The weights of `part`, with gradients until `restore` or `load`."""
        return list(self._module(part).requires_grad_(True).parameters())

    def weights(self, part: Part) -> dict[str, Tensor]:
        """A copy of the weights of `part` on the CPU, named as its own class saves them."""
        return {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self._module(part).state_dict().items()
        }

    def config(self, part: Part) -> dict[str, Any]:
        """The config of `part` as its own class saves it, less the path that it came from."""
        module = getattr(self.pipeline, part)
        holder = module if part == "unet" else module.config  # diffusers' way, transformers' way
        config: dict[str, Any] = json.loads(holder.to_json_string())
        config.pop("_name_or_path", None)
        return config

    def encode_posterior(self, images: Sequence[Image]) -> Posterior:
        """Encode N images, each brought to the backbone's resolution."""
        with self.autocast():
            return self._codec.encode(images)

    def encode_images(self, images: Sequence[Image], *, seed: int | None = None) -> Tensor:
        """Latents (N, C, h, w), scaled: the posterior's mode, or with a `seed` a draw from it."""
        posterior = self.encode_posterior(images)
        if seed is None:
            return posterior.mean
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed))
        return posterior.draw(torch.arange(len(images), device=self.device), noise.to(self.device))

    def decode(self, latents: Tensor) -> list[Image]:
        """RGB images of scaled latents (N, C, h, w)."""
        with self.autocast():
            return self._codec.decode(latents)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, L), padded or cut to the tokenizer's own length L."""
        ids: Tensor = self.tokenizer(
            self.pipeline.maybe_convert_prompt(list(texts), self.tokenizer),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids.to(self.device)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Text states (N, L, D) of token ids (N, L), with gradients where something is trained."""
        with self.autocast():
            states: Tensor = self.pipeline.text_encoder(ids)[0]
        return states.float()

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Text states (N, L, D) of prompts, without gradients."""
        ids = self.tokenize(texts)
        with torch.no_grad():
            return torch.cat(
                [self.encode_tokens(part) for part in torch.split(ids, TEXTS_PER_PASS)]
            )

    @contextmanager
    def added_tokens(self, token: str, vectors: Tensor) -> Iterator[None]:
        """While open, `token` in a text stands for `vectors` (n, D), which may be trained.

        The embedding matrix is not touched: the vectors lie beside it. Several vectors are named
        as diffusers' `load_textual_inversion` names them: <t>, <t>_1, <t>_2, ...
        """
        tokenizer, text_encoder = self.tokenizer, self.pipeline.text_encoder
        embedding = text_encoder.get_input_embeddings()
        if token in tokenizer.get_vocab():
            raise UserError(f'"{token}" is a token of this backbone already; rename the subject')
        extended = deepcopy(tokenizer)
        extended.add_tokens([token, *(f"{token}_{i}" for i in range(1, len(vectors)))])
        first = extended.convert_tokens_to_ids(token)
        self.pipeline.tokenizer = extended
        text_encoder.set_input_embeddings(ExtendedEmbedding(embedding, vectors, first=first))
        try:
            yield
        finally:
            self.pipeline.tokenizer = tokenizer
            text_encoder.set_input_embeddings(embedding)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents (N, C, h, w) at `timesteps` (N,) of the noise schedule."""
        return self.schedule.add_noise(latents, noise, timesteps)

    def training_target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is to predict there: noise, velocity or latents, as the schedule says."""
        return self.schedule.target(latents, noise, timesteps)

    def denoising_loss(
        self, latents: Tensor, text: Tensor, *, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Mean squared error of the UNet's prediction for each of N latents: (N,), float32."""
        noisy = self.add_noise(latents, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            prediction: Tensor = self.pipeline.unet(noisy, timesteps, text, return_dict=False)[0]
        error = prediction.float() - self.training_target(latents, noise, timesteps)
        return torch.mean(error.square(), dim=(1, 2, 3))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the models' arithmetic; weights, losses and solvers stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def sample(
        self, prompts: Sequence[str], *, seeds: Sequence[int], settings: SampleSettings
    ) -> Iterator[Image]:
        """Draw one image for each prompt, in order, from the noise of its own seed.

        The texts are encoded before this returns; the images come batch by batch from diffusers'
        own pipeline call. A batch's size and company change an image by rounding only.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        row = {text: i for i, text in enumerate(dict.fromkeys(["", *prompts]))}
        states = self.encode_prompts(list(row))
        return self._denoise(states, [row[prompt] for prompt in prompts], seeds, settings)

    def _denoise(
        self, states: Tensor, rows: Sequence[int], seeds: Sequence[int], settings: SampleSettings
    ) -> Iterator[Image]:
        """Denoise under the text states (T, L, D) at `rows`; row 0 is the empty prompt."""
        components = dict(self.pipeline.components)
        components["scheduler"] = build_solver(settings.scheduler, self.pipeline.scheduler.config)
        pipeline = type(self.pipeline)(**components, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        for start in range(0, len(seeds), settings.batch_size):
            batch = slice(start, start + settings.batch_size)
            text = states[list(rows[batch])]
            with torch.inference_mode(), self.autocast():
                latents = pipeline(
                    prompt_embeds=text,
                    negative_prompt_embeds=states[:1].expand_as(text),
                    height=self.resolution,
                    width=self.resolution,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[batch]],
                    output_type="latent",
                ).images
            yield from self.decode(latents)

    def _module(self, part: Part) -> nn.Module:
        module: nn.Module = getattr(self.pipeline, part)
        return module


def load_backbone(
    source: str,
    *,
    resolution: int,
    device: str,
    dtype: DType = "auto",
    revision: str | None = None,
) -> Backbone:
    """Load a diffusers folder, a hub id, a single .safetensors file, or the embedded "mini".

    Raises UserError where the source cannot be had or is pickled, or there is no such device.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(f'there is no CUDA device for "{device}"; use --device cpu')
    pipeline = load_pipeline(source, revision=revision)
    return Backbone(pipeline, resolution=resolution, device=device, dtype=dtype)
