"""What processes share that diffuse each frequency at a speed of its own: z = V (alpha_f * V^T x + sigma_f * V^T eps).

V is an orthonormal basis of images (a separable one); alpha_f and sigma_f are (n, n) arrays, one entry per frequency f.
In this basis everything is as in a scalar diffusion, with lambda_f = log(alpha_f^2 / sigma_f^2).

The signal in z is x_t = V ((alpha_f / a) * V^T x), a = a(t) the scalar amplitude: the image as blurred at time t. It is
what a prediction holds (``Prediction.clean``): x_t can be read off z where x itself is beyond recovery, alpha_f / a being
as small as 1e-80 at the highest frequencies of some schedules. It goes over to another time by a ratio of alpha_f.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fdm.device import to_device
from fdm.operators import Separable
from fdm.processes.base import Example, Images, Move, Prediction, Process, Stage, Target, Times


@dataclass(frozen=True)
class Spectrum:
    """Levels of every frequency at times of shape (*b): float64, shapes that broadcast to (*b, n, n)."""

    log_amplitude: Tensor
    log_alpha: Tensor
    log_sigma: Tensor

    @property
    def log_snr(self) -> Tensor:
        """lambda_f; +inf at t = 0."""
        return 2 * (self.log_alpha - self.log_sigma)

    @property
    def alpha(self) -> Tensor:
        return self.log_alpha.exp()

    @property
    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    @property
    def attenuation(self) -> Tensor:
        """alpha_f / a: x_t = V (attenuation * V^T x)."""
        return (self.log_alpha - self.log_amplitude).exp()


class FrequencyProcess(Process):
    """One stage whose frequencies have levels of their own; the samplers are exact for each of them.

    Args:
        shape: (channels, side, side).
        basis: V; ``apply`` makes images, ``adjoint`` coefficients.
        target: what the network returns: eps, x, or v = alpha_f eps - sigma_f x per frequency.
    """

    def __init__(self, shape: tuple[int, int, int], basis: Separable, target: Target) -> None:
        self.basis = basis
        self.target = target
        self.stages = (Stage(0, 0.0, 1.0, shape, outputs=shape[0], output_resolution=shape[1]),)

    @abstractmethod
    def levels(self, t: Times) -> Spectrum:
        """Levels at times t > 0 of any shape (*b)."""

    def bounded(self) -> bool:
        """Whether x_t stays in [-1, 1] as x does, so that it may be clipped."""
        return True

    def spectrum(self, t: Times | float) -> Spectrum:
        """Levels at times t; t = 0 is data: alpha_f = 1 and sigma_f = 0 exactly."""
        t = torch.as_tensor(t, dtype=torch.float64)
        levels, data = self.levels(t), (t <= 0)[..., None, None]
        return Spectrum(
            torch.where(data, 0.0, levels.log_amplitude),
            torch.where(data, 0.0, levels.log_alpha),
            torch.where(data, -torch.inf, levels.log_sigma),
        )

    def filter(self, factors: Tensor, x: Images) -> Images:
        """V (factors * V^T x); factors (n, n) or (b, 1, n, n), float64."""
        return self.basis.apply(to_device(factors.to(x.dtype), x.device) * self.basis.adjoint(x))

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        spectrum = self.spectrum(t)
        alpha, sigma = spectrum.alpha.unsqueeze(1), spectrum.sigma.unsqueeze(1)
        z = self.filter(alpha, x) + self.filter(sigma, eps)
        if self.target == "v":
            return Example(z, self.filter(alpha, eps) - self.filter(sigma, x))
        return Example(z, eps if self.target == "eps" else x)

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        now = self.spectrum(t)
        if self.target == "eps":
            signal = (z - self.filter(now.sigma, output)) / float(now.log_amplitude.exp())
        elif self.target == "x":
            signal = self.filter(now.attenuation, output)
        else:
            # alpha z - sigma v = (alpha^2 + sigma^2) x, also where that sum is not 1.
            scale = now.attenuation / (now.alpha.square() + now.sigma.square())
            signal = self.filter(scale * now.alpha, z) - self.filter(scale * now.sigma, output)
        return Prediction(signal.clamp(-1, 1) if clip and self.bounded() else signal)

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        return prediction.clean

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        raise ValueError("a process with one stage has no jumps")

    def reverse(self, z: Images, prediction: Prediction, move: Move, *, eta: float, noise: Images | None) -> Images:
        """One reverse step q(z_s | z_t, x) for each frequency: the formula of ``Process.reverse`` with its own levels."""
        now, then = self.spectrum(move.t), self.spectrum(move.s)
        # sigma_s^2 (1 - SNR_t / SNR_s), without cancellation.
        posterior = then.sigma * (-torch.expm1(now.log_snr - then.log_snr)).clamp_min(0).sqrt()
        drawn = (eta * posterior).minimum(then.sigma)
        kept = (then.sigma.square() - drawn.square()).sqrt() / now.sigma
        amplitude = now.log_amplitude.exp()
        z_s = self.filter(kept, z)
        z_s = z_s + self.filter(amplitude * ((then.log_alpha - now.log_alpha).exp() - kept), prediction.clean)
        if eta > 0 and move.s > 0:
            assert noise is not None
            z_s = z_s + self.filter(drawn, noise)
        return z_s

    def extrapolate(self, prediction: Prediction, earlier: Prediction, previous: Move, move: Move) -> Prediction:
        """As of any process, after bringing the earlier signal to the present time."""
        before, now = self.spectrum(previous.t), self.spectrum(move.t)
        shift = (now.log_alpha - now.log_amplitude - before.log_alpha + before.log_amplitude).exp()
        return super().extrapolate(prediction, Prediction(self.filter(shift, earlier.clean)), previous, move)
