"""The backbone's noise: what training adds and asks for, and the solvers that take it away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from dbbench.sampling import Scheduler


class NoiseSchedule:
    """The training side of a diffusers scheduler config: x_t, and what the UNet is to predict."""

    def __init__(self, config: Mapping[str, Any], device: torch.device) -> None:
        schedule = diffusers.DDPMScheduler.from_config(config)
        self.timesteps = int(schedule.config.num_train_timesteps)
        self.prediction_type = str(schedule.config.prediction_type)
        kept = schedule.alphas_cumprod.double()
        self._signal = kept.sqrt().float().to(device)
        self._sigma = (1 - kept).sqrt().float().to(device)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e (arXiv 2006.11239, eq. 4); NCHW, timesteps (N,)."""
        signal, sigma = self._at(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is to predict: the noise, x_0, or the velocity (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        signal, sigma = self._at(timesteps)
        return signal * noise - sigma * latents

    def _at(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[timesteps, None, None, None], self._sigma[timesteps, None, None, None]


def build_solver(name: Scheduler, config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler called `name` on the noise schedule of `config`."""
    solver, extra = _SOLVERS[name]
    # Latents are unbounded, so never clipped; the offset is the one diffusers' pipeline insists on.
    return solver.from_config({**config, "clip_sample": False, "steps_offset": 1, **extra})


_SOLVERS: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
