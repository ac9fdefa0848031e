"""The backbone's noise: schedules and targets for training, solvers for sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import diffusers
import torch
from torch import Generator, Tensor
from typing_extensions import override

from dbbench.errors import UserError
from dbbench.suites.sampling import Scheduler

_FLOW = "FlowMatchEulerDiscreteScheduler"


class Schedule(Protocol):
    """The training side of a diffusers scheduler config; latents are NCHW, timesteps (N,)."""

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Draw random timesteps, int64, from the training distribution."""
        ...

    def times(self, timesteps: Tensor) -> Tensor:
        """Return the denoiser's time input for these timesteps."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the latents noised to these timesteps."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the denoiser's training target there."""
        ...


def build_schedule(config: Mapping[str, Any], device: torch.device) -> Schedule:
    """Return the schedule of a diffusers scheduler config."""
    kind = FlowSchedule if _is_flow(config) else NoiseSchedule
    return kind(config, device)


class NoiseSchedule(Schedule):
    """Diffusion: x_t between data and noise, and the UNet's training target."""

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        schedule = diffusers.DDPMScheduler.from_config(config)
        self.timesteps = int(schedule.config.num_train_timesteps)
        self.prediction_type = str(schedule.config.prediction_type)
        kept = schedule.alphas_cumprod.double()
        self._signal = kept.sqrt().float().to(device)
        self._sigma = (1 - kept).sqrt().float().to(device)

    @override
    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Return uniform timesteps (arXiv 2006.11239, algorithm 1)."""
        return torch.randint(self.timesteps, tuple(shape), generator=generator)

    @override
    def times(self, timesteps: Tensor) -> Tensor:
        return timesteps

    @override
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e (arXiv 2006.11239, eq. 4); NCHW, timesteps (N,)."""
        signal, sigma = self._at(timesteps)
        return signal * latents + sigma * noise

    @override
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise, x_0, or the velocity (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._at(timesteps)
        return signal * noise - sigma * latents

    def _at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[timesteps, None, None, None], self._sigma[timesteps, None, None, None]


class FlowSchedule(Schedule):
    """Flow matching on straight paths from data to noise (arXiv 2403.03206, eq. 13)."""

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        schedule = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
        self.timesteps = int(schedule.config.num_train_timesteps)
        self._sigmas: Tensor = schedule.sigmas[: self.timesteps].to(device)
        self._times: Tensor = schedule.timesteps[: self.timesteps].to(device)

    @override
    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Return logit-normal timesteps, mean 0, deviation 1: the best in section 3.1, table 1."""
        part = torch.sigmoid(torch.randn(tuple(shape), generator=generator))
        return (part * self.timesteps).long().clamp(max=self.timesteps - 1)

    @override
    def times(self, timesteps: Tensor) -> Tensor:
        """Return the position on the path after the resolution shift, times `timesteps`."""
        return self._times[timesteps]

    @override
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = (1 - t) x_0 + t e."""
        sigma = self._sigmas[timesteps, None, None, None]
        return (1 - sigma) * latents + sigma * noise

    @override
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the path's velocity, e - x_0."""
        return noise - latents


def build_solver(name: Scheduler, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler `name` with the noise schedule of `config`.

    Raises UserError if it does not support what the backbone was trained with: flow matching, zero
    terminal SNR, or its prediction type.
    """
    if _is_flow(config):
        return _flow_solver(name, config)
    solver, extra = _SOLVERS[name]
    if config.get("rescale_betas_zero_snr") and name in _NO_ZERO_SNR:
        raise UserError(
            f'scheduler "{name}" does not support a backbone with zero terminal SNR'
            " (rescale_betas_zero_snr); use ddim (--set sample.scheduler=ddim)"
        )
    if config.get("prediction_type") == "sample" and name == "pndm":
        raise UserError(
            'scheduler "pndm" does not support a backbone that predicts the sample itself; use ddim'
            " (--set sample.scheduler=ddim)"
        )
    # Latents are unbounded, so they are not clipped; diffusers' pipeline requires the offset.
    return solver.from_config({**config, "clip_sample": False, "steps_offset": 1, **extra})


def _flow_solver(name: Scheduler, config: Mapping[str, Any]) -> Any:
    if name == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    if name not in _FLOW_SOLVERS:
        raise UserError(
            f'scheduler "{name}" does not support a backbone trained with flow matching; use'
            f" euler or {' or '.join(_FLOW_SOLVERS)} (--set sample.scheduler=euler)"
        )
    solver, extra = _FLOW_SOLVERS[name]
    return solver(
        num_train_timesteps=config["num_train_timesteps"],
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=config.get("shift", 1.0),
        **extra,
    )


def _is_flow(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") == _FLOW


_SOLVERS: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
_NO_ZERO_SNR = ("pndm",)
_FLOW_SOLVERS: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
