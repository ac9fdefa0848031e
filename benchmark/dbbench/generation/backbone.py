"""The frozen text-to-image model of every run; methods use it to train and to sample."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
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
from dbbench.errors import UserError
from dbbench.generation.architectures import architecture, text_encoders, tokenizer_of
from dbbench.generation.latents import LatentCodec, Posterior
from dbbench.generation.loading import load_pipeline, quiet
from dbbench.generation.noise import build_schedule, build_solver
from dbbench.generation.text import EncodedText, ExtendedEmbedding, Tokens, join
from dbbench.suites.sampling import SampleSettings

DType = Literal["auto", "float32", "bfloat16"]

TEXTS_PER_PASS = 64

log = logging.getLogger(__name__)


class Backbone:
    """A frozen diffusers pipeline with the operations that methods need; shared by all runs.

    The interface is the same for every pipeline class: parts, texts, noise and loss.
    Weights stay float32. `restore` undoes all changes of a run to the denoiser and text encoders.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        resolution: int,
        device: str,
        dtype: DType = "auto",
        compile: bool = False,
    ) -> None:
        kind = type(pipeline).__name__
        self._architecture = architecture(kind, source="the pipeline")
        factor = pipeline.vae_scale_factor * self._architecture.multiple
        if resolution % factor:
            raise UserError(
                f"resolution {resolution} is not a multiple of {factor}; choose a multiple"
            )
        self.pipeline = pipeline.to(device)
        self.resolution = resolution
        self.device = torch.device(device)
        # bfloat16 halves the time on a GPU, and takes ten times as long on most CPUs.
        self._half = dtype == "bfloat16" or (dtype == "auto" and self.device.type == "cuda")
        for part in (*self.parts, "vae"):
            self.module(part).float().requires_grad_(False).eval()
        for part in (self.denoiser, "vae"):
            self.module(part).to(memory_format=torch.channels_last)
        self._codec = LatentCodec(pipeline, resolution=resolution)
        self._pristine = {part: self.weights(part) for part in self.parts}
        self.schedule = build_schedule(pipeline.scheduler.config, self.device)
        if compile:
            self.module(self.denoiser).compile()

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
        digest = hashlib.sha256()
        states = [*self._pristine.items(), ("vae", self.pipeline.vae.state_dict())]
        for part, state in states:
            for name, tensor in sorted(state.items()):
                # transformers 5 dropped this prefix from the names of the same weights.
                digest.update(f"{part}/{name.removeprefix('text_model.')}{tensor.shape}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
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
        return digest.hexdigest()

    def module(self, part: str) -> nn.Module:
        """The network of a part, or "vae"."""
        module: nn.Module = getattr(self.pipeline, part)
        return module

    def restore(self) -> None:
        """Restore the original weights bit for bit, and freeze them."""
        remove_adapters(self.pipeline)
        for part in self.parts:
            self.load(part, self._pristine[part])

    def load(self, part: str, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into the weights of `part`, and freeze them.

        Raises UserError if names or shapes do not match this backbone.
        """
        module = self.module(part)
        try:
            module.load_state_dict(_as_named_here(state, module))
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint's {part} does not fit this backbone"
                f" ({str(error).splitlines()[-1].strip()}); use the backbone that it was trained on"
            ) from error
        module.requires_grad_(False)
        module.zero_grad()  # a failed run's gradients must not enter the next run

    def trainable(self, part: str, *, ending: tuple[str, ...] = ("",)) -> dict[str, nn.Parameter]:
        """Enable gradients for the weights of `part` whose names end with one of `ending`.

        Returns them by name. `restore` or `load` freezes them again.
        """
        module = self.module(part)
        chosen = {
            name: weight for name, weight in module.named_parameters() if name.endswith(ending)
        }
        for weight in chosen.values():
            weight.requires_grad_(True)
        return chosen

    def weights(self, part: str) -> dict[str, Tensor]:
        """Return a copy of the weights of `part` on the CPU, named as its class saves them."""
        return {
            name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.module(part).state_dict().items()
        }

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
            return join(
                [
                    self.encode_tokens(tokens[start : start + TEXTS_PER_PASS])
                    for start in range(0, len(tokens), TEXTS_PER_PASS)
                ]
            )

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

        def denoise() -> Iterator[Image]:
            start, size = 0, settings.batch_size
            while start < len(seeds):
                batch = slice(start, start + size)
                text = texts[rows[batch]]
                try:
                    with torch.inference_mode(), self.autocast():
                        latents = pipeline(
                            **text.arguments(unconditional.repeat(len(text))),
                            height=self.resolution,
                            width=self.resolution,
                            num_inference_steps=settings.steps,
                            guidance_scale=settings.guidance,
                            generator=[torch.Generator().manual_seed(n) for n in seeds[batch]],
                            output_type="latent",
                            **(conditions or {}),
                        ).images
                    images = self.decode(latents)
                except torch.OutOfMemoryError as error:
                    if size == 1:
                        raise UserError(
                            "out of memory with one image at a time; choose a smaller resolution"
                            " or a device with more memory"
                        ) from error
                    images = None
                if images is None:  # outside the handler: the exception keeps tensors alive
                    size = (size + 1) // 2
                    torch.cuda.empty_cache()
                    log.warning("out of memory: continuing with %d images at a time", size)
                    continue
                start += len(images)
                yield from images

        return denoise()


def load_backbone(
    source: str,
    *,
    resolution: int,
    device: str,
    dtype: DType = "auto",
    revision: str | None = None,
    config: str | None = None,
    compile: bool = False,
) -> Backbone:
    """Load a diffusers folder, a hub id, a single .safetensors file, or the embedded "mini".

    A single file takes its configuration from `config`, a folder or hub id. Raises UserError if
    the source cannot be loaded or is pickled, or if the device does not exist.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(f'there is no CUDA device for "{device}"; use --device cpu')
    pipeline = load_pipeline(source, revision=revision, config=config)
    return Backbone(pipeline, resolution=resolution, device=device, dtype=dtype, compile=compile)


def _as_named_here(state: Mapping[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """Rename a text encoder's weights to the names of the installed transformers version."""
    known = module.state_dict().keys()
    if known == state.keys():
        return state
    named = {}
    for name, tensor in state.items():
        short = name.removeprefix("text_model.")
        new = next((n for n in (name, short, f"text_model.{short}") if n in known), name)
        if not name.endswith("embeddings.position_ids"):  # older versions kept this constant
            named[new] = tensor
    return named


def remove_adapters(pipeline: Any) -> None:
    """Remove all adapters, so that modules and names are as they were loaded."""
    if "peft" not in sys.modules:
        return
    from diffusers.utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component in pipeline.components.values():
        if not isinstance(component, nn.Module):
            continue
        # Adapters that failed to load leave layers behind, but no `peft_config`.
        if any(isinstance(layer, BaseTunerLayer) for layer in component.modules()):
            recurse_remove_peft_layers(component)
        model: Any = component
        if hasattr(model, "peft_config"):
            del model.peft_config
            model._hf_peft_config_loaded = False
