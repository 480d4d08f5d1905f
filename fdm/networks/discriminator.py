"""Patch discriminator of VQGAN (2012.09841, after 1611.07004): one judgement per overlapping patch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from fdm.networks.layers import Features
from fdm.networks.normalisation import group_norm

Verdict = Float[Tensor, "b 1 h w"]


class Discriminator(nn.Module):
    """Strided convolutions; group instead of batch normalisation, so that an image is judged alone and resume is exact.

    Args:
        shape: (channels, side, side) of the images.
        width: features after the first convolution; twice as many after each further one, at most 4 times.
    """

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, side, _ = shape
        # As many halvings as leave 4 x 4 verdicts, at most three.
        halvings = max(1, min(3, side.bit_length() - 3))
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
        for level in range(1, halvings):
            outputs = width * min(2**level, 4)
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
                group_norm(outputs),
                nn.LeakyReLU(0.2),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Features) -> Verdict:
        """Positive for what looks real."""
        return self.layers(x)


def hinge(real: Verdict, fake: Verdict) -> Tensor:
    """The discriminator's loss, 0-d: real above 1, fake below -1."""
    return 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter) -> Tensor:
    """||grad reconstruction|| / ||grad adversarial|| at the decoder's last layer, at most 1e4. (2012.09841, eq. 7)"""
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-6)).clamp(0, 1e4).detach()
