"""The network of a process: one U-Net for all of its stages, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from fdm.config import NetworkConfig
from fdm.networks.unet import UNet, check_levels
from fdm.processes import Process, Stage


class Separate(nn.Module):
    """One U-Net per stage, each built for the resolution of its stage as if there were no other.

    ``config.mult`` counts levels from that resolution down, and the network sees the local time of its stage, 0 to 1.
    """

    def __init__(self, config: NetworkConfig, stages: Sequence[Stage], classes: int = 0) -> None:
        super().__init__()
        self.networks = nn.ModuleList(UNet(config, stage.output_resolution, (stage,), classes) for stage in stages)
        self.starts, self.lengths = [s.start for s in stages], [s.length for s in stages]

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], stage: int, labels: Tensor | None = None
    ) -> Float[Tensor, "b o hs ws"]:
        """As ``UNet.forward``."""
        output: Tensor = self.networks[stage](z, (t - self.starts[stage]) / self.lengths[stage], 0, labels)
        return output


def build_network(config: NetworkConfig, resolution: int, process: Process, classes: int = 0) -> nn.Module:
    """The network that ``process`` trains and samples with, for data of side ``resolution``: (z, t, stage, labels) -> output;
    ``classes`` is the number of classes, 0 where it is not conditional.

    Raises:
        ValueError: see ``check_network``.
    """
    if process.shared_network:
        return UNet(config, resolution, process.stages, classes)
    return Separate(config, process.stages, classes)


def check_network(config: NetworkConfig, resolution: int, process: Process) -> None:
    """Raise ValueError where ``config`` cannot serve the stages, without building anything."""
    if process.shared_network:
        check_levels(config, resolution, process.stages)
        return
    for stage in process.stages:
        try:
            check_levels(config, stage.output_resolution, (stage,))
        except ValueError as error:
            raise ValueError(f"network of stage {stage.index}: {error}") from None
