"""fDM-Blur-G and fDM-Blur-U: blurs of growing width, on one grid. [fDM]"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import Tensor

from fdm import operators
from fdm.config import Frozen
from fdm.transforms.base import Shape, Transform


class Config(Frozen):
    """One more blur. A chain x^k = f_k(x^{k-1}) composes them: variances add, so total widths grow like sqrt(sum width^2).

    That is exact for `dct` (the heat equation), nearly so for `gaussian` of a pixel or more, and true of second moments
    for `uniform`, whose iterates tend to Gaussians.
    """

    kind: Literal["blur"] = "blur"
    kernel: Literal["gaussian", "uniform", "dct"] = Field(
        "gaussian", description="dct: heat kernel, reflecting boundary"
    )
    width: Annotated[float, Field(gt=0)] = Field(description="pixels: standard deviation, or side of the uniform box")
    boundary: operators.Boundary = "reflect"

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.kernel == "uniform" and self.width < 1:
            raise ValueError(f"width={self.width}: a uniform kernel is at least one pixel wide")
        if self.kernel == "dct" and self.boundary != "reflect":
            raise ValueError("kernel dct has a reflecting boundary")
        return self


class Blur(Transform):
    """f blurs, g = identity: d = gamma = rho = 1, and since g g^T = I a jump carries z over as it is."""

    linear = True
    power_ratio = 1.0

    def __init__(self, config: Config, fine: Shape) -> None:
        _, side, width = fine
        if side != width:
            raise ValueError(f"a signal of {side}x{width} pixels is not square")
        self.fine = self.coarse = fine
        if config.kernel == "dct":
            self.down: operators.Separable = operators.heat(side, config.width**2 / 2)
        else:
            kernel = operators.gaussian if config.kernel == "gaussian" else operators.uniform
            self.down = kernel(side, config.width, config.boundary)
        self.up: operators.Separable = operators.identity(side)

    def forward(self, x: Tensor) -> Tensor:
        return self.down.apply(x)

    def backward(self, y: Tensor) -> Tensor:
        return y


build = Blur
