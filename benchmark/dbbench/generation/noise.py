"""The backbone's noise: schedules and targets for training, solvers for sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from torch import Generator, Tensor

from dbbench.errors import UserError
from dbbench.suites.sampling import Scheduler


class NoiseSchedule:
    """Diffusion training: x_t between data and noise; latents are NCHW, timesteps (N,) int64."""

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        schedule = diffusers.DDPMScheduler.from_config(config)
        self.timesteps = int(schedule.config.num_train_timesteps)
        self.prediction_type = str(schedule.config.prediction_type)
        kept = schedule.alphas_cumprod.double()
        self._signal = kept.sqrt().float().to(device)
        self._sigma = (1 - kept).sqrt().float().to(device)

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Draw uniform timesteps (arXiv 2006.11239, algorithm 1)."""
        return torch.randint(self.timesteps, tuple(shape), generator=generator)

    def times(self, timesteps: Tensor) -> Tensor:
        """Return the denoiser's time input (N,): the timesteps themselves."""
        return timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e (arXiv 2006.11239, eq. 4)."""
        signal, sigma = self._at(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the training target: the noise, x_0, or the velocity (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._at(timesteps)
        return signal * noise - sigma * latents

    def _at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[timesteps, None, None, None], self._sigma[timesteps, None, None, None]


class FlowSchedule:
    """Flow matching on straight paths from data to noise (arXiv 2403.03206, eq. 13).

    Its methods are those of `NoiseSchedule`.
    """

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        schedule = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
        self.timesteps = int(schedule.config.num_train_timesteps)
        self._sigmas: Tensor = schedule.sigmas[: self.timesteps].to(device)
        self._times: Tensor = schedule.timesteps[: self.timesteps].to(device)

    def draw(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """Draw logit-normal timesteps, mean 0, deviation 1: the best in section 3.1, table 1."""
        part = torch.sigmoid(torch.randn(tuple(shape), generator=generator))
        return (part * self.timesteps).long().clamp(max=self.timesteps - 1)

    def times(self, timesteps: Tensor) -> Tensor:
        """Return the position on the path after the resolution shift, times `timesteps`."""
        return self._times[timesteps]

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """z_t = (1 - t) x_0 + t e."""
        sigma = self._sigmas[timesteps, None, None, None]
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the path's velocity, e - x_0."""
        return noise - latents


Schedule = NoiseSchedule | FlowSchedule


def build_schedule(config: Mapping[str, Any], device: torch.device) -> Schedule:
    """Return the training side of a diffusers scheduler config."""
    return (FlowSchedule if _is_flow(config) else NoiseSchedule)(config, device)


def build_solver(name: Scheduler, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler `name` with the noise schedule of `config`.

    Raises UserError if it does not support what the backbone was trained with: flow matching, zero
    terminal SNR, or its prediction type.
    """
    solver, extra = _SOLVERS[name]
    if not _is_flow(config):
        _check_supported(name, config)
        # Latents are unbounded, so they are not clipped; diffusers' pipeline requires the offset.
        return solver.from_config({**config, "clip_sample": False, "steps_offset": 1, **extra})
    if name == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    if name not in _FLOW_SOLVERS:
        raise UserError(
            f'scheduler "{name}" does not support a backbone trained with flow matching; use'
            f" euler or {' or '.join(_FLOW_SOLVERS)} (--set sample.scheduler=euler)"
        )
    return solver(
        num_train_timesteps=config["num_train_timesteps"],
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=config.get("shift", 1.0),
        **extra,
    )


def _check_supported(name: Scheduler, config: Mapping[str, Any]) -> None:
    """Raise UserError for what PNDM alone does not know, and would leave out without a word."""
    if name != "pndm":
        return
    if config.get("rescale_betas_zero_snr"):
        raise UserError(
            'scheduler "pndm" does not support a backbone with zero terminal SNR'
            " (rescale_betas_zero_snr); use ddim (--set sample.scheduler=ddim)"
        )
    if config.get("prediction_type") == "sample":
        raise UserError(
            'scheduler "pndm" does not support a backbone that predicts the sample itself; use ddim'
            " (--set sample.scheduler=ddim)"
        )


def _is_flow(config: Mapping[str, Any]) -> bool:
    return config.get("_class_name") == "FlowMatchEulerDiscreteScheduler"


_SOLVERS: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
_FLOW_SOLVERS: tuple[Scheduler, ...] = ("dpmsolver++", "unipc")  # besides euler
