"""The frozen text-to-image model of every run; methods use it to train and to sample."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy, deepcopy
from functools import cached_property
from typing import Any, Literal

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from PIL.Image import Image
from torch import Tensor, nn

from dbbench.cut_texts import say_cut
from dbbench.device import half_precision, require_device
from dbbench.errors import UserError
from dbbench.generation.architectures import architecture, text_encoders, tokenizer_of
from dbbench.generation.latents import LatentCodec, Posterior
from dbbench.generation.memory import by_parts
from dbbench.generation.networks import Networks, remove_adapters
from dbbench.generation.noise import build_schedule, build_solver
from dbbench.generation.pipelines.loading import load_pipeline, quiet
from dbbench.generation.pipelines.understood import OLD_END
from dbbench.generation.text import EncodedText, ExtendedEmbedding, Tokens, join
from dbbench.suites.sampling import SampleSettings

DType = Literal["auto", "float32", "bfloat16"]
Frozen = Literal["float32", "bfloat16"]

TEXTS_PER_PASS = 64

log = logging.getLogger(__name__)


class Backbone:
    """A frozen diffusers pipeline with the operations that methods need; shared by all runs.

    The interface is the same for every pipeline class: parts, texts, noise and loss.
    Weights that are trained are float32. `restore` undoes all changes of a run to the networks.
    With `frozen` = "bfloat16" those that are not trained are held in bfloat16 where passes read
    them so in any case: less memory, and the same results.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        resolution: int,
        device: str,
        dtype: DType = "auto",
        frozen: Frozen = "float32",
        compile: bool = False,
    ) -> None:
        kind = type(pipeline).__name__
        self._architecture = architecture(kind, source="the pipeline")
        factor = pipeline.vae_scale_factor * self._architecture.multiple
        if resolution % factor:
            raise UserError(
                f"resolution {resolution} is not a multiple of {factor}; choose a multiple"
            )
        self.pipeline = pipeline
        self.resolution = resolution
        self.device = torch.device(device)
        self._half = _uses_half(dtype, device)
        self._networks = Networks(
            {part: self.module(part) for part in (*self.parts, "vae")},
            device=device,
            images=(self.denoiser, "vae"),
            half=self._half,
            frozen_half=frozen == "bfloat16",
        )
        self._codec = LatentCodec(pipeline, resolution=resolution)
        self.schedule = build_schedule(pipeline.scheduler.config, self.device)
        if compile:
            self.module(self.denoiser).compile()

    @property
    def is_half(self) -> bool:
        """Whether passes calculate in bfloat16."""
        return self._half

    @property
    def is_held_half(self) -> bool:
        """Whether weights that are not trained are held in bfloat16."""
        return self._networks.held_half

    @property
    def denoiser(self) -> str:
        """The part that predicts noise or velocity: "unet", or "transformer"."""
        return self._architecture.denoiser

    @cached_property
    def text_encoders(self) -> tuple[str, ...]:
        """The parts that encode text, in the pipeline's order."""
        return text_encoders(self.pipeline)

    @property
    def contexts(self) -> tuple[int, ...]:
        """The most tokens of a text that each text encoder reads, with the marks of its ends."""
        return tuple(
            length or getattr(self.pipeline, tokenizer_of(part)).model_max_length
            for part, length in zip(
                self.text_encoders, self._architecture.token_lengths, strict=False
            )
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The trainable parts: the denoiser and the text encoders."""
        return (self.denoiser, *self.text_encoders)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The denoiser's layers that LoRA adapters are added to."""
        return self._architecture.lora_targets

    @property
    def tokenizer(self) -> Any:
        """The first tokenizer; inside `added_tokens` it includes the added tokens."""
        return self.pipeline.tokenizer

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image's latents."""
        side = self.resolution // self.pipeline.vae_scale_factor
        denoiser: Any = self.module(self.denoiser)
        return (int(denoiser.config.in_channels), side, side)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and settings that affect an image; file layout has no effect."""
        digest = self._networks.digest()
        denoiser: Any = self.module(self.denoiser)
        parts = (self.pipeline.scheduler, denoiser, self.pipeline.vae)
        configs = [
            sorted((key, repr(value)) for key, value in part.config.items() if key[0] != "_")
            for part in parts
        ]
        for number, part in enumerate(self.text_encoders):
            tokenizer = getattr(self.pipeline, tokenizer_of(part))
            vocabulary = sorted(tokenizer.get_vocab().items())
            choices = (configs, self.resolution, self._half) if number == 0 else ()
            digest.update(repr((vocabulary, tokenizer.model_max_length, *choices)).encode())
            encoder: Any = self.module(part)
            if number and getattr(encoder.config, "eos_token_id", None) == OLD_END:
                # Earlier versions pooled such an encoder's text at the highest id.
                digest.update(b"pooled at the end token")
        return str(digest.hexdigest())

    def module(self, part: str) -> nn.Module:
        """The network of a part, or "vae"."""
        module: nn.Module = getattr(self.pipeline, part)
        return module

    def restore(self) -> None:
        """Restore the original weights bit for bit, and freeze them; copies only what changed."""
        remove_adapters(self.pipeline)
        self._networks.restore()

    def gather(self) -> None:
        """Bring the networks back to the device that a training has moved to the CPU."""
        self._networks.gather()

    def load(self, part: str, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into the weights of `part`, and freeze them.

        Raises UserError if names or shapes do not match this backbone.
        """
        self._networks.load(part, state)

    def trainable(self, part: str, *, ending: tuple[str, ...] = ("",)) -> dict[str, nn.Parameter]:
        """Enable gradients for the weights of `part` whose names end with one of `ending`.

        Returns them by name. `restore` or `load` freezes them again.
        """
        module = self.module(part)
        self._networks.hold_whole(part)
        chosen = {
            name: weight for name, weight in module.named_parameters() if name.endswith(ending)
        }
        for weight in chosen.values():
            weight.requires_grad_(True)
        return chosen

    def weights(self, part: str) -> dict[str, Tensor]:
        """Return a copy of the weights of `part` on the CPU, named as its class saves them."""
        return self._networks.weights(part)

    def config(self, part: str) -> dict[str, Any]:
        """Return the config of `part` as its class saves it, without the path of its source."""
        module = self.module(part)
        # diffusers has the method on the model, transformers on its config.
        holder: Any = module if part == self.denoiser else module.config
        config: dict[str, Any] = json.loads(holder.to_json_string())
        config.pop("_name_or_path", None)
        return config

    def file(self, part: str) -> str:
        """Return the path of the weights of `part` inside a pipeline's folder."""
        name = "diffusion_pytorch_model" if part == self.denoiser else "model"
        return f"{part}/{name}.safetensors"

    def encode_posterior(self, images: Sequence[Image]) -> Posterior:
        """Encode N images, each resized to the backbone's resolution."""
        with self.autocast():
            return self._codec.encode(images)

    def decode(self, latents: Tensor) -> list[Image]:
        """Decode scaled latents (N, C, h, w) to RGB images."""
        with self.autocast():
            return self._codec.decode(latents)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return token ids for each text encoder, padded or truncated to its length.

        What is cut is said in the log.
        """
        ids, cut = [], []
        for part, limit in zip(self.text_encoders, self.contexts, strict=True):
            tokenizer = getattr(self.pipeline, tokenizer_of(part))
            with quiet():  # transformers says of long texts that they end in errors.
                written = TextualInversionLoaderMixin().maybe_convert_prompt(list(texts), tokenizer)
                counts = [len(each) for each in tokenizer(written).input_ids]
            encoded = tokenizer(
                written,
                padding="max_length",
                max_length=limit,
                truncation=True,
                return_tensors="pt",
            )
            ids.append(encoded.input_ids.to(self.device))
            cut.append(say_cut(texts, counts, limit, "the text encoder"))
        for line in dict.fromkeys(filter(None, cut)):
            log.warning("%s", line)
        return Tokens(tuple(ids))

    def encode_tokens(self, tokens: Tokens) -> EncodedText:
        """Encode N texts; gradients flow to weights that are being trained."""
        with self.autocast():
            return self._architecture.encode(self.pipeline, tokens)

    def encode_prompts(self, texts: Sequence[str]) -> EncodedText:
        """Encode N prompts without gradients, at most TEXTS_PER_PASS at a time."""
        tokens = self.tokenize(texts)
        with torch.no_grad():
            parts = by_parts(
                len(tokens), TEXTS_PER_PASS, lambda rows: self.encode_tokens(tokens[rows]),
                what="text",
            )  # fmt: skip
            return join(list(parts))

    @contextmanager
    def added_tokens(self, words: Mapping[str, Sequence[Tensor]]) -> Iterator[None]:
        """Inside this context, each word is a placeholder token with its own, trainable vectors.

        `words` maps a word to vectors (n, D) for each text encoder in turn. The embedding matrices
        stay unchanged; the vectors are kept apart. Several vectors are named as in diffusers'
        `load_textual_inversion`: <t>, <t>_1, <t>_2, ...
        """
        before = []
        try:
            for number, part in enumerate(self.text_encoders):
                text_encoder: Any = self.module(part)
                tokenizer = getattr(self.pipeline, tokenizer_of(part))
                embedding = text_encoder.get_input_embeddings()
                extended, first = deepcopy(tokenizer), len(tokenizer)
                for word, vectors in words.items():
                    if word in extended.get_vocab():
                        raise UserError(
                            f'"{word}" is already a token of this backbone; rename the subject'
                        )
                    count = len(vectors[number])
                    extended.add_tokens([word, *(f"{word}_{i}" for i in range(1, count))])
                rows = [vectors[number] for vectors in words.values()]
                before.append((part, tokenizer, embedding))
                setattr(self.pipeline, tokenizer_of(part), extended)
                text_encoder.set_input_embeddings(ExtendedEmbedding(embedding, rows, first=first))
            yield
        finally:
            for part, tokenizer, embedding in before:
                setattr(self.pipeline, tokenizer_of(part), tokenizer)
                owner: Any = self.module(part)
                owner.set_input_embeddings(embedding)

    def denoising_loss(
        self, latents: Tensor, text: EncodedText, *, noise: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Return the mean squared error of each latent's prediction: (N,), float32."""
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            prediction = self._architecture.predict(
                self.pipeline, noisy, self.schedule.times(timesteps), text
            )
        error = prediction.float() - self.schedule.target(latents, noise, timesteps)
        return torch.mean(error.square(), dim=(1, 2, 3))

    def autocast(self) -> AbstractContextManager[Any]:
        """Set the precision of the networks; weights, losses and solvers stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        settings: SampleSettings,
        conditions: Mapping[str, Any] | None = None,
    ) -> Iterator[Image]:
        """Generate one image per prompt, in order, each from the noise of its own seed.

        Texts are encoded before this returns. Images then come batch by batch from the diffusers
        pipeline, which also gets the `conditions` as keyword arguments. The batch size and the
        other images of a batch change an image only by rounding.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        row = {text: i for i, text in enumerate(dict.fromkeys(["", *prompts]))}
        pipeline = copy(self.pipeline)
        pipeline.scheduler = build_solver(settings.scheduler, self.pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        texts = self.encode_prompts(list(row))
        rows = [row[prompt] for prompt in prompts]
        unconditional = self._architecture.unconditional(pipeline, texts[:1])

        def work(batch: slice) -> list[Image]:
            text = texts[rows[batch]]
            with torch.inference_mode(), self.autocast():
                latents = pipeline(
                    **text.arguments(unconditional.repeat(len(text))),
                    height=self.resolution,
                    width=self.resolution,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds[batch]],
                    output_type="latent",
                    **(conditions or {}),
                ).images
            return self.decode(latents)

        batches = by_parts(len(seeds), settings.batch_size, work)
        return (image for images in batches for image in images)


def load_backbone(
    source: str,
    *,
    resolution: int,
    device: str,
    dtype: DType = "auto",
    frozen: Frozen = "float32",
    revision: str | None = None,
    config: str | None = None,
    variant: str | None = None,
    compile: bool = False,
) -> Backbone:
    """Load a diffusers folder, a hub id, a single .safetensors file, or the embedded "mini".

    A single file takes its configuration from `config`, a folder or hub id. Raises UserError if
    the source cannot be loaded or is pickled, or if the device does not exist.
    """
    require_device(device)
    pipeline = load_pipeline(source, revision=revision, config=config, variant=variant)
    return Backbone(
        pipeline, resolution=resolution, device=device, dtype=dtype, frozen=frozen, compile=compile
    )


def _uses_half(dtype: DType, device: str) -> bool:
    """Whether passes calculate in bfloat16: half the time on a GPU that has it, ten times on a CPU.

    Raises UserError where it is asked for and the GPU only emulates it.
    """
    fast = half_precision(device)
    if dtype == "bfloat16" and device.startswith("cuda") and not fast:
        raise UserError(
            'backbone.dtype = "bfloat16" needs a GPU of compute capability 8.0 or newer, and'
            f" {device} has {'.'.join(map(str, torch.cuda.get_device_capability(device)))}; use"
            " auto or float32"
        )
    return dtype == "bfloat16" or (dtype == "auto" and fast)
