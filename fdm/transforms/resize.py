"""fDM-DS: down-sampling by an integer factor. [fDM]"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fdm import operators
from fdm.config import Frozen
from fdm.transforms.base import Shape, Transform


class Config(Frozen):
    """Down-sampling; `box` averages and goes back by repetition, `bilinear` filters and goes back by interpolation."""

    kind: Literal["resize"] = "resize"
    operator: Literal["box", "bilinear"] = "box"
    factor: Annotated[int, Field(ge=2)] = 2


class Resize(Transform):
    """f averages (box) or filters (bilinear) blocks of factor x factor pixels; g repeats or interpolates them."""

    linear = True

    def __init__(self, config: Config, fine: Shape) -> None:
        channels, side, width = fine
        if side != width or side % config.factor:
            raise ValueError(
                f"a signal of {side}x{width} pixels cannot be down-sampled by {config.factor}; choose a resolution "
                f"that every factor divides, or fewer stages"
            )
        small = side // config.factor
        self.fine, self.coarse = fine, (channels, small, small)
        if config.operator == "box":
            self.down: operators.Separable = operators.box(side, config.factor)
            self.up: operators.Separable = operators.nearest(small, config.factor)
            self.power_ratio = 1.0  # repetition keeps the mean square
        else:
            self.down = operators.bilinear_down(side, config.factor)
            self.up = operators.bilinear_up(small, config.factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.down.apply(x)

    def backward(self, y: Tensor) -> Tensor:
        return self.up.apply(y)


build = Resize
