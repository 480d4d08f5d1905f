"""The autoencoder behind a run: its identity, its pretraining, its metrics, and how a run gets hold of it.

Experiments that need the same autoencoder (the same data, configuration and seed) share one run of the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fdm.data import Store, to_float
from fdm.errors import UserError
from fdm.experiment import Experiment, identity
from fdm.networks.autoencoder import Autoencoder
from fdm.processes import Pretraining, build_process
from fdm.records import complete
from fdm.sources import source_version
from fdm.store import (
    check_target,
    checkpoint_seconds,
    export,
    exported,
    finished,
    known_file,
    locked,
    root,
    run_folder,
    sealed,
    sweep,
    write_json,
)
from fdm.tensors import fill, load_tensors

if TYPE_CHECKING:
    from fdm.evaluation.features import Name
    from fdm.evaluation.reconstruction import Reconstructions

MODEL = "autoencoder.safetensors"
PRETRAIN_FILES = (MODEL, "autoencoder.csv", "reconstructions.png", "pretrain.json")
HELD_OUT = 5000
"""At most so many images that the autoencoder has not seen are scored."""
HELD_OUT_EVERY = 20
"""Where a dataset has no test split, one training image in so many is kept from the autoencoder."""


def pretraining_of(experiment: Experiment) -> Pretraining | None:
    """What the experiment needs pretrained, or None."""
    dataset = experiment.dataset
    return build_process(experiment.method, dataset.channels, dataset.resolution).pretraining()


def load_autoencoder(path: Path, identity: str, needed: Pretraining, device: torch.device) -> Autoencoder:
    """The finished autoencoder in ``path``, frozen, on the device.

    Raises:
        UserError: missing, damaged, or of another run.
    """
    tensors, _ = load_tensors(path, identity, "pretrain")
    model = Autoencoder(needed.config, needed.shape)
    fill(model, tensors, path)
    return model.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class AutoencoderRun:
    """The autoencoder that one experiment needs, under one seed.

    Attributes:
        open_data: the experiment's packed data, opened when first needed.
        target: folder of the experiment's own files, or None.
    """

    experiment: Experiment
    needed: Pretraining
    seed: int
    open_data: Callable[[], Store]
    device: torch.device
    target: Path | None = None

    @cached_property
    def identity(self) -> str:
        """Covers data, signal, architecture, losses, budget, seed and the code that trains; no part of the denoiser."""
        digest, flip = self.open_data().digest, self.experiment.dataset.flip
        unseen = [] if self._tested else [HELD_OUT_EVERY]
        return identity(digest, flip, self._before, self.needed.config, self.seed, self.source, *unseen)

    @cached_property
    def source(self) -> str:
        """Version of the code that trains."""
        kinds = [f"transforms/{config['kind']}".replace("-", "_") for config in self._before]
        return source_version("training/autoencoder", "data/pixels", *kinds)

    @cached_property
    def _before(self) -> list[dict[str, Any]]:
        return [config.model_dump(mode="json") for config in self.needed.before]

    @property
    def _tested(self) -> bool:
        """Whether the data have a test split, so that all training images can be learned from."""
        return "test" in self.open_data().manifest["splits"]

    def pretrain(self) -> dict[str, Any]:
        """Train, resume, or find the finished autoencoder; returns its record, with all metrics that the experiment wants."""
        if (record := exported(self.target, "pretrain", self.identity)) and not self._missing(record):
            return record
        check_target(self.target)
        about = {"experiment": self.experiment.name, "seed": self.seed, "dataset": self.experiment.dataset.name}
        folder = run_folder("pretrain", self.identity, about=about)
        # Another experiment may be training the same autoencoder right now: then wait and take it.
        with locked(folder, wait=True):
            record = finished(folder, "pretrain", self.identity)
            if not record:
                # Lightning's import time, which finished runs need not pay.
                from fdm.training.autoencoder import pretrain

                sweep(folder)
                if self.experiment.scored:
                    self.open_data().require_reference(self.experiment.evaluation)
                self.open_data().verify()
                train, held_out = self._split()
                outcome = pretrain(
                    self.needed,
                    self.experiment.name,
                    self.seed,
                    torch.from_numpy(np.array(train)),
                    self.experiment.dataset.flip,
                    folder,
                    self.identity,
                    self.device,
                    checkpoint_seconds=checkpoint_seconds(),
                )
                outcome["metrics"] = self._score(folder, held_out)
                record = complete(folder, "pretrain", self.identity, outcome, self.device, PRETRAIN_FILES)
            elif missing := self._missing(record):
                from fdm.evaluation.reconstruction import reconstruct

                model = load_autoencoder(folder / MODEL, self.identity, self.needed, self.device)
                pair = reconstruct(model, self._signals(self._split()[1]))
                record["metrics"]["features"] |= self._feature_scores(missing, pair, folder)
                record = sealed(record)
                write_json(folder / "pretrain.json", record)
            shutil.rmtree(folder / "features", ignore_errors=True)
        if self.target:
            export(folder, PRETRAIN_FILES, self.target, record)
        return record

    def load(self) -> Autoencoder:
        """The finished autoencoder, frozen, on the device.

        Raises:
            UserError: not pretrained yet, damaged, or of another run.
        """
        path = known_file("pretrain", self.identity, MODEL, self.target)
        if not path.exists():
            raise UserError(
                f"{self.experiment.name} seed {self.seed}: its autoencoder is not there yet; run `fdm pretrain` with the same "
                f"experiment, seed and overrides first"
            )
        return load_autoencoder(path, self.identity, self.needed, self.device)

    def _missing(self, record: dict[str, Any]) -> list[Name]:
        return [name for name in self.experiment.evaluation.features if name not in record["metrics"]["features"]]

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Images to learn from and images to be judged on, uint8 (N, C, H, W)."""
        data = self.open_data()
        images: np.ndarray = data.split("train").images
        if self._tested:
            return images, data.split("test").images[:HELD_OUT]
        held_out = np.arange(len(images)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        return images[~held_out], images[held_out][:HELD_OUT]

    def _signals(self, images: np.ndarray) -> torch.Tensor:
        return self.needed.signal(to_float(torch.from_numpy(np.array(images)))).to(self.device)

    def _score(self, folder: Path, held_out: np.ndarray) -> dict[str, Any]:
        from fdm.evaluation.reconstruction import codebook_scores, psnr, reconstruct
        from fdm.picture import save_grid

        model = load_autoencoder(folder / MODEL, self.identity, self.needed, self.device)
        x = self._signals(held_out)
        pair = reconstruct(model, x)
        # Pairs side by side: original, reconstruction, original, …
        side_by_side = np.stack([pair.original[:32], pair.decoded[:32]], axis=1).reshape(-1, *pair.original.shape[1:])
        save_grid(folder / "reconstructions.png", side_by_side)
        return {
            "count": len(x),
            "split": "test" if self._tested else f"every {HELD_OUT_EVERY}th of train",
            "psnr": psnr(pair),
            **codebook_scores(model, x),
            "features": self._feature_scores(self.experiment.evaluation.features, pair, folder),
        }

    def _feature_scores(self, names: Sequence[Name], pair: Reconstructions, folder: Path) -> dict[str, Any]:
        from fdm.evaluation.features import Kept
        from fdm.evaluation.reconstruction import feature_scores

        # Features of the originals do not depend on the autoencoder, so that of all autoencoders only the first computes them.
        originals = (
            root() / "reference" / identity(self.open_data().digest, "held out", self._before, len(pair.original))
        )
        return feature_scores(
            names,
            Kept(pair.original, originals),
            Kept(pair.decoded, folder / "features"),
            str(self.device),
            f"score autoencoder of {self.experiment.name} seed {self.seed}",
        )
