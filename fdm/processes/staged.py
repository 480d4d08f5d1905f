"""f-DM: the signal is transformed stage by stage while it diffuses. [fDM]"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializeAsAny, field_validator, model_validator
from torch import Tensor

from fdm.config import Frozen
from fdm.operators import Separable
from fdm.processes.base import (
    Example,
    Images,
    Measurement,
    Prediction,
    Pretraining,
    Process,
    Stage,
    Target,
    Times,
    blocks,
    network_target,
    per_image,
    signal_from_output,
    stage_boundaries,
)
from fdm.schedules import ScheduleConfig, build_schedule
from fdm.transforms import Codec, Transform, build_transform, parse_transform


class Config(Frozen):
    """Transforms between the stages, and how the signal moves inside them."""

    process: Literal["staged"]
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    target: Target = "v"
    transforms: tuple[SerializeAsAny[Frozen], ...] = ()
    boundaries: Literal["equal"] | tuple[float, ...] = "equal"
    interpolation: bool = Field(True, description="move the signal inside a stage, so that a jump loses nothing")
    rescaling: Literal["none", "dim", "dim_power"] = "dim_power"
    predict: Literal["double", "operator"] = "double"
    delta_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="weight of the delta term of the loss")

    @field_validator("transforms", mode="before")
    @classmethod
    def _known_transforms(cls, raw: Any) -> Any:
        return tuple(parse_transform(item) for item in raw) if isinstance(raw, (list, tuple)) else raw

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.predict == "operator" and self.target == "eps":
            # x_t = ((1-u) I + u g f) x^k is singular at u = 1, so an estimate of eps does not determine x^k.
            raise ValueError("predict=operator needs target v or x; eps does not determine the clean signal")
        stage_boundaries(self.boundaries, len(self.transforms) + 1)
        return self


class Staged(Process):
    """x_t = (1 - u) x^k + u x_hat^k inside stage k, u = (t - tau_k) / (tau_{k+1} - tau_k); exact jumps where they exist.

    Args:
        config: the method.
        shape: (channels, height, width) of the data.
        calibration: ``{"power_ratios": [gamma_1, …]}`` as measured by ``calibrate``; needed to train or sample with
            rescaling ``dim_power`` where a transform does not know its own ratio.
    """

    def __init__(
        self, config: Config, shape: tuple[int, int, int], calibration: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.transforms: list[Transform] = []
        shapes = [shape]
        for item in config.transforms:
            self.transforms.append(build_transform(item, shapes[-1]))
            shapes.append(self.transforms[-1].coarse)
        if sum(transform.autoencoder is not None for transform in self.transforms) > 1:
            raise ValueError("transforms: at most one of them may be latent")
        self.linear = all(transform.linear for transform in self.transforms)
        if config.predict == "operator" and not self.linear:
            raise ValueError("predict=operator needs linear transforms; use double")
        taus = stage_boundaries(config.boundaries, len(shapes))
        last = len(shapes) - 1
        self.stages = tuple(
            # The last stage does not move, so it has no delta to predict.
            Stage(
                k,
                taus[k],
                taus[k + 1],
                s,
                s[0] * (2 if self._moves(k, last) and config.predict == "double" else 1),
                s[1],
                bounded=all(transform.bounded for transform in self.transforms[:k]),
            )
            for k, s in enumerate(shapes)
        )
        # The loss must know where the signal ends and delta begins; at one resolution every stage has the same channels.
        self._signal_channels = {(s.outputs, s.output_resolution): s.shape[0] for s in self.stages}
        measured = (calibration or {}).get("power_ratios", [None] * len(self.transforms))
        self.power_ratios = [
            transform.power_ratio if transform.power_ratio is not None else value
            for transform, value in zip(self.transforms, measured, strict=True)
        ]
        self._offsets = [0.0]
        for transform, gamma in zip(self.transforms, self.power_ratios, strict=True):
            self._offsets.append(self._offsets[-1] + math.log(self._rescale(transform, gamma)))
        self.exact = last == 0 or (config.interpolation and all(map(self.exact_jump, range(1, len(shapes)))))

    def _moves(self, stage: int, last: int) -> bool:
        return self.config.interpolation and stage < last

    def _rescale(self, transform: Transform, gamma: float | None) -> float:
        """rho = SNR' / SNR at a jump: d gamma, d, or 1."""
        if self.config.rescaling == "none":
            return 1.0
        if self.config.rescaling == "dim":
            return transform.dimension_ratio
        # Before calibration the ratio is unknown; shapes and counts can be shown all the same, levels cannot.
        return transform.dimension_ratio * gamma if gamma is not None else math.nan

    def snr_ratio(self, stage: int) -> float:
        """rho = SNR' / SNR between the start of ``stage`` and the end of ``stage - 1``."""
        return math.exp(self._offsets[stage] - self._offsets[stage - 1])

    def exact_jump(self, stage: int) -> bool:
        """Whether the jump ``stage -> stage - 1`` can be undone exactly: g g^T <= rho I, that is rho >= ||g||^2."""
        up = self.transforms[stage - 1].up
        return up is not None and self.snr_ratio(stage) * (1 + 1e-9) >= up.norm_squared

    def calibrate(self, images: Images) -> Mapping[str, Any]:
        """gamma_k = P(g f x^{k-1}) / P(f x^{k-1}), P the mean square per element over ``images``; known ones are not measured."""
        ratios = [transform.power_ratio for transform in self.transforms]
        unknown = [k for k, ratio in enumerate(ratios) if ratio is None]
        powers = torch.zeros(len(self.transforms), 2, dtype=torch.float64)
        for block in blocks(images) if unknown else ():
            x = block
            for k, transform in enumerate(self.transforms[: unknown[-1] + 1]):
                x = transform.forward(x)
                if k in unknown:
                    power = torch.stack([transform.backward(x).square().mean(), x.square().mean()])
                    powers[k] += power.cpu() * (len(block) / len(images))
        for k in unknown:
            ratios[k] = float(powers[k, 0] / powers[k, 1])
        return {"power_ratios": ratios}

    def pretraining(self) -> Pretraining | None:
        for k, transform in enumerate(self.transforms):
            if transform.autoencoder is not None:
                before = self.config.transforms[:k]
                return Pretraining(transform.autoencoder, transform.fine, before, partial(self.clean, stage=k))
        return None

    def attach(self, codec: Codec) -> None:
        latent = [transform for transform in self.transforms if transform.autoencoder is not None]
        if not latent:
            super().attach(codec)
        latent[0].attach(codec)

    def measurement(self, level: int) -> Measurement:
        """x^k, k = ``level``: it is the signal at the start of stage k, where the jump to stage k - 1 begins."""
        if not 1 <= level <= len(self.transforms):
            raise ValueError(f"it has no transformed signal {level}; there are {len(self.transforms)}")
        operators: dict[int, Separable] = {}
        for k in reversed(range(level)):
            down = self.transforms[k].down
            if down is None:
                raise ValueError("its transforms are not linear operators, so that their results are no measurements")
            operators[k] = operators[k + 1] @ down if operators else down
        return Measurement(level, self.stages[level].start, operators)

    def prediction(self, clean: Images, stage: int) -> Prediction:
        moves = self._moves(stage, len(self.transforms))
        return Prediction(clean, self.delta(clean, stage) if moves else None)

    def log_snr(self, t: Times, stage: int) -> Times:
        offset = self._offsets[stage]
        if math.isnan(offset):
            raise ValueError("rescaling dim_power needs the power ratio of this transform: calibrate on data first")
        return self.schedule.log_snr(t) + offset

    def signals(self, x: Images) -> list[Images]:
        signals = [x]
        for transform in self.transforms:
            signals.append(transform.forward(signals[-1]))
        return signals

    def clean(self, x: Images, stage: int) -> Images:
        """x^k of data x, for k = ``stage``."""
        for transform in self.transforms[:stage]:
            x = transform.forward(x)
        return x

    def progress(self, t: Times | float, stage: int) -> Tensor:
        """u = (t - tau_k) / (tau_{k+1} - tau_k), float64."""
        here = self.stages[stage]
        return (torch.as_tensor(t, dtype=torch.float64) - here.start) / here.length

    def delta(self, clean: Images, stage: int) -> Images:
        """x^k - g f x^k, what the jump out of ``stage`` loses."""
        transform = self.transforms[stage]
        return clean - transform.backward(transform.forward(clean))

    def example(self, x: Images, t: Times, stage: int, eps: Images) -> Example:
        clean = self.clean(x, stage)
        level = self.level(t, stage)
        alpha, sigma = per_image(level.alpha, x), per_image(level.sigma, x)
        if not self._moves(stage, len(self.transforms)):
            return Example(alpha * clean + sigma * eps, network_target(self.config.target, clean, eps, alpha, sigma))
        delta = self.delta(clean, stage)
        signal = clean - per_image(self.progress(t, stage), x) * delta
        z = alpha * signal + sigma * eps
        if self.config.predict == "double":
            return Example(z, torch.cat([network_target(self.config.target, signal, eps, alpha, sigma), delta], dim=1))
        # v of the clean signal in the same state: alpha z - sigma v = x^k. It is the usual v where x_t = x^k.
        return Example(z, (alpha * z - clean) / sigma if self.config.target == "v" else clean)

    def predict(self, output: Images, z: Images, t: float, stage: int, clip: bool) -> Prediction:
        level = self.level(t, stage)
        clip = clip and self.stages[stage].bounded
        channels = z.shape[1]
        signal = signal_from_output(self.config.target, output[:, :channels], z, level)
        if not self._moves(stage, len(self.transforms)):
            return Prediction(signal.clamp(-1, 1) if clip else signal)
        if self.config.predict == "double":
            delta = output[:, channels:]
            # The moving signal is clipped, as it is what the network sees: clipping x^k instead would turn errors of
            # delta into a bias of x_t.
            signal = signal.clamp(-1, 1) if clip else signal
            return Prediction(signal + float(self.progress(t, stage)) * delta, delta)
        clean = signal.clamp(-1, 1) if clip else signal
        return Prediction(clean, self.delta(clean, stage))

    def signal(self, prediction: Prediction, t: float, stage: int) -> Images:
        if prediction.delta is None:
            return prediction.clean
        return prediction.clean - float(self.progress(t, stage)) * prediction.delta

    def loss(self, output: Images, target: Images, weight: Times | None = None) -> Tensor:
        channels = self._signal_channels[output.shape[1], output.shape[2]]
        if output.shape[1] == channels:
            return super().loss(output, target, weight)
        signal = super().loss(output[:, :channels], target[:, :channels], weight)
        return signal + self.config.delta_weight * super().loss(output[:, channels:], target[:, channels:], weight)

    def carry(self, earlier: Prediction, now: Prediction, stage: int) -> Prediction | None:
        """``now`` with the coarse part of ``earlier``: x + g (x'^k - f x), delta as it is.

        The signal at the jump, x - delta = g f x, becomes g x'^k, which is what the jump makes of ``earlier``.
        """
        transform = self.transforms[stage - 1]
        if not transform.linear:
            return None
        return Prediction(now.clean + transform.backward(earlier.clean - transform.forward(now.clean)), now.delta)

    def jump(self, z: Images, prediction: Prediction, stage: int, noise: Images) -> Images:
        """From the start of ``stage`` to the end of ``stage - 1``; no network evaluation.

        Where rho >= ||g||^2 the law is exact: z = (alpha / alpha') g z' + sigma (I - g g^T / rho)^{1/2} noise.
        Otherwise z = alpha g(x) + sigma (U eps + (I - U U^T) noise) from the last prediction, U the isometry nearest to g,
        or fresh noise where g is not an operator.
        """
        tau = self.stages[stage].start
        coarse, fine = self.level(tau, stage), self.level(tau, stage - 1)
        transform = self.transforms[stage - 1]
        up, rho = transform.up, self.snr_ratio(stage)
        if up is not None and self.exact_jump(stage):
            carried = float(fine.alpha / coarse.alpha) * up.apply(z)
            return carried + float(fine.sigma) * up.cogram(lambda v: (1 - v / rho).clamp_min(0).sqrt(), noise)
        signal = self.signal(prediction, tau, stage)
        if up is not None:
            eps = (z - float(coarse.alpha) * signal) / float(coarse.sigma)
            noise = up.polar(eps) + up.cogram(lambda v: (v <= 1e-9).to(v.dtype), noise)
        return float(fine.alpha) * transform.backward(signal) + float(fine.sigma) * noise


build = Staged
