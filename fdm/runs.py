"""Runs: what makes one, where it lives, and how training, sampling and evaluation hang together.

Each verb works in the run store under an identity that covers everything that the result depends on, then copies the result
to where the caller wants it. Calling it again finds the record and does nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fdm.config import EvaluationConfig
from fdm.data import Store, open_store, to_float
from fdm.device import choose
from fdm.errors import UserError
from fdm.evaluation.cost import add_autoencoder, autoencoder_passes, cost_of_run, images_per_stage
from fdm.experiment import Experiment, identity
from fdm.launch import ALONE, Layout, check_devices, connect
from fdm.networks.build import build_network
from fdm.plain import map_array, read_json
from fdm.pretrained import AutoencoderRun, pretraining_of
from fdm.processes import Process, build_process
from fdm.progress import Progress
from fdm.records import complete, make_record
from fdm.sampling.classes import class_cycle
from fdm.sampling.sampler import denoiser_of
from fdm.sampling.shards import draw_shard, finished_parts, merge_parts, shard_finished
from fdm.shards import check_shard, shard_range
from fdm.sources import source_version
from fdm.store import (
    check_target,
    checkpoint_seconds,
    export,
    exported,
    finished,
    intact,
    known_file,
    known_record,
    locked,
    read_sealed,
    record_of,
    require_intact,
    root,
    run_folder,
    sealed,
    sweep,
    write_json,
)
from fdm.tensors import fill, load_tensors

if TYPE_CHECKING:
    from fdm.evaluation.features import Kept

TRAIN_FILES = ("model.safetensors", "training.csv", "train.json")
SAMPLE_FILES = ("samples.npy", "grid.png", "trajectory.npz", "sample.json")
EVALUATE_FILES = ("metrics.json", "cost.json", "neighbours.npz", "forward.npz", "manifest.json")
SAMPLE_SOURCES = ("sampling/shards", "sampling/sampler", "sampling/solvers")
EVALUATE_SOURCES = ("evaluation/scores", "evaluation/cost", "evaluation/neighbours", "evaluation/forward")
FORWARD_IMAGES = 64
"""So many training images show what the forward process does."""


@dataclass(frozen=True)
class Run:
    """One experiment with one seed on prepared data.

    Attributes:
        device: "auto", "cpu" or "cuda"; not part of the identity.
        target: where finished files are copied (``results/<suite>/<experiment>/seed<k>``), or None to leave them in the store.
    """

    experiment: Experiment
    seed: int
    device: str = "auto"
    target: Path | None = None

    @cached_property
    def data(self) -> Store:
        """The packed data.

        Raises:
            UserError: not prepared, damaged, or prepared from another description.
        """
        config = self.experiment.dataset
        store = open_store(Path("data", config.name))
        store.require(config)
        return store

    @cached_property
    def train_identity(self) -> str:
        """Covers data, network, method, budget, seed, the code that trains, and autoencoder and classes where there are any."""
        e = self.experiment
        pretrained = [self.autoencoder.identity] if self.autoencoder else []
        extra = [*pretrained, *([e.conditioning] if e.conditioning else [])]
        return identity(
            self.data.digest, e.dataset.flip, e.network, e.method, e.training, self.seed, self.sources["train"], *extra
        )

    @cached_property
    def sources(self) -> dict[str, str]:
        """Versions of the code that each step depends on."""
        method = self.experiment.method.model_dump(mode="json")
        parts = [f"processes/{method['process']}", *(f"transforms/{t['kind']}" for t in method.get("transforms", ()))]
        return {
            **({"pretrain": self.autoencoder.source} if self.autoencoder else {}),
            "train": source_version("training/loop", "data/pixels", *(part.replace("-", "_") for part in parts)),
            "sample": source_version(*SAMPLE_SOURCES),
            "evaluate": source_version(*EVALUATE_SOURCES),
        }

    @cached_property
    def autoencoder(self) -> AutoencoderRun | None:
        """The autoencoder that the method needs, or None."""
        needed = pretraining_of(self.experiment)
        if needed is None:
            return None
        return AutoencoderRun(self.experiment, needed, self.seed, lambda: self.data, self.torch_device, self.target)

    @property
    def pretrain_identity(self) -> str | None:
        """Of the autoencoder, where there is one."""
        return self.autoencoder.identity if self.autoencoder else None

    @cached_property
    def sample_identity(self) -> str:
        """Covers the training and how samples are drawn; batch sizes do not change them."""
        sampling = self.experiment.sampling.model_dump(mode="json", exclude={"batch", "micro_batch"})
        return identity(self.train_identity, sampling, self.sources["sample"])

    @cached_property
    def evaluate_identity(self) -> str:
        """Covers the samples and how they are scored."""
        return identity(self.sample_identity, self.experiment.evaluation, self.sources["evaluate"])

    @cached_property
    def torch_device(self) -> torch.device:
        """The device to run on."""
        return choose(self.device)

    # -- the verbs ---------------------------------------------------------------------------------------------------

    def pretrain(self) -> dict[str, Any] | None:
        """Pretrain the autoencoder that the experiment needs; its record, or None where it needs none."""
        return self.autoencoder.pretrain() if self.autoencoder else None

    @property
    def trained(self) -> bool:
        """Whether ``train`` would find the finished run."""
        stored = record_of(root() / f"train-{self.train_identity}", "train", self.train_identity)
        return bool(exported(self.target, "train", self.train_identity) or stored)

    def check_layout(self, layout: Layout) -> None:
        """Raise UserError where the processes of ``layout`` cannot train this run: data, devices, or what they would share."""
        if layout.world > 1:
            self.experiment.training.micro_batches(layout.world)
            check_devices(self.torch_device, layout)
            self.data.split("train")

    def train(self, layout: Layout = ALONE) -> dict[str, Any] | None:
        """Train, resume, or find the finished run.

        Args:
            layout: the processes that do this together; each of them calls this.

        Returns:
            The record; None in every process but the first.
        """
        e = self.experiment
        with ExitStack() as held:
            # One process looks before it pays two seconds for imports; of several, the first looks once all are connected.
            if layout.world == 1 and (record := self._found(held)):
                return record
            from fdm.training.loop import train
            from fdm.training.ranks import Ranks

            fabric = connect(layout, self.torch_device)
            ranks = Ranks(fabric)
            held.enter_context(ranks.connected())
            folder = root() / f"train-{self.train_identity}"
            record = None
            with ranks.together():
                if ranks.zero and not (record := self._found(held) if layout.world > 1 else None):
                    sweep(folder)
                    if e.scored:
                        self.data.require_reference(e.evaluation)
                    self.data.verify()
            if any(ranks.highest(int(bool(record)))):
                return record
            with ranks.together():
                codec = self.autoencoder.load() if self.autoencoder else None
            outcome = train(
                e,
                self.seed,
                self.data.split("train"),
                folder,
                self.train_identity,
                fabric,
                checkpoint_seconds=checkpoint_seconds(),
                codec=codec,
            )
            with ranks.together():
                if outcome:
                    record = complete(folder, "train", self.train_identity, outcome, self.torch_device, TRAIN_FILES)
                    self._export(folder, TRAIN_FILES, record)
        return record

    def sample(self, shard: int = 0, shards: int = 1) -> dict[str, Any] | None:
        """Draw one shard of the samples, or what is missing of all of them and put them together.

        Returns:
            The record, or None for one of several shards while the run is not complete.
        """
        if record := exported(self.target, "sample", self.sample_identity):
            return record
        check_target(self.target)
        config = self.experiment.sampling
        wanted = shard_range(config.count, config.batch, shard, shards)
        folder = run_folder("sample", self.sample_identity, self.train_identity)
        with locked(folder, _name(shard, shards)):
            record = finished(folder, "sample", self.sample_identity)
            if not record:
                cycle = class_cycle(config, self.experiment.classes)
                if not shard_finished(config, wanted, folder):
                    network, process = self.model()
                    denoiser = denoiser_of(self.experiment, network, self.torch_device)
                    title = f"sample {self.experiment.name} seed {self.seed} {_name(shard, shards)}".rstrip()
                    draw_shard(process, denoiser, config, self.seed, wanted, folder, self.torch_device, title)
                if shards > 1:
                    return None
                parts = finished_parts(folder)
                outcome = merge_parts(config, parts, folder, cycle)
                record = complete(folder, "sample", self.sample_identity, outcome, self.torch_device, SAMPLE_FILES)
                for part in parts:
                    part.path.unlink(missing_ok=True)
                sweep(folder)
        self._export(folder, SAMPLE_FILES, record)
        return record

    def evaluate(self, shard: int = 0, shards: int = 1) -> dict[str, Any] | None:
        """Score the samples and count what they cost, or only extract the features of one shard.

        Returns:
            The metrics, or None for one of several shards while the run is not complete.
        """
        check_shard(shard, shards)
        if self.target and self._is_evaluated(self.target):
            return _read_json(self.target / "metrics.json")
        check_target(self.target)
        train, sample = self._record_of("train", self.train_identity), self._record_of("sample", self.sample_identity)
        pretrained = self._record_of("pretrain", self.autoencoder.identity) if self.autoencoder else None
        folder = run_folder("evaluate", self.evaluate_identity, self.sample_identity)
        with locked(folder, _name(shard, shards)):
            done = finished(folder, "evaluate", self.evaluate_identity)
            if not done:
                if shards == 1:
                    sweep(folder)
                self.data.verify()
                samples = self._samples(sample)
                metrics = self._scores(samples, folder, shard, shards)
                if metrics is None:
                    return None
                write_json(folder / "metrics.json", metrics)
                self._describe(folder, samples, train, sample, pretrained)
                self._write_manifest(folder, train, sample, pretrained)
                shutil.rmtree(folder / "features", ignore_errors=True)
                done = complete(folder, "evaluate", self.evaluate_identity, {}, self.torch_device, EVALUATE_FILES)
        self._export(folder, EVALUATE_FILES, done)
        return _read_json(require_intact(folder / "metrics.json", done))

    def ensure(
        self, kind: str, own: str, names: tuple[str, ...], compute: Callable[[Path], dict[str, Any]], *needs: str
    ) -> dict[str, Any]:
        """Find what was made of this training under the identity ``own``, or make it; returns its record.

        Args:
            names: its files, the record last.
            compute: writes the others into the folder that it is given; returns the outcome.
            needs: identities of other runs that it starts from.
        """
        if record := exported(self.target, kind, own):
            return record
        check_target(self.target)
        folder = run_folder(kind, own, self.train_identity, *needs)
        with locked(folder):
            record = finished(folder, kind, own)
            if not record:
                sweep(folder)
                record = complete(folder, kind, own, compute(folder), self.torch_device, names)
        self._export(folder, names, record)
        return record

    def _scores(self, samples: np.ndarray, folder: Path, shard: int, shards: int) -> dict[str, Any] | None:
        """The content of ``metrics.json``, with what is kept of features in ``folder``; None for one of several shards."""
        from fdm.evaluation.features import Kept
        from fdm.evaluation.scores import extract_shard, score, workload

        e, device = self.experiment, str(self.torch_device)
        drawn, reference = Kept(samples, folder / "features"), reference_of(self.data, e.evaluation)
        title = f"evaluate {e.name} seed {self.seed} {_name(shard, shards)}".rstrip()
        with Progress(title, workload(drawn, reference, e.evaluation, shard, shards), "img") as bar:
            if shards > 1:
                extract_shard(drawn, reference, e.evaluation, shard, shards, device, bar.advance)
                return None
            scores = score(drawn, reference, e.evaluation, device, bar.advance)
        return {
            "samples": len(samples),
            "reference": {
                "dataset": e.dataset.name,
                "split": e.evaluation.reference,
                "count": len(reference.images),
                "digest": self.data.digest,
            },
            "features": scores,
        }

    def _describe(
        self,
        folder: Path,
        samples: np.ndarray,
        train: dict[str, Any],
        sample: dict[str, Any],
        pretrained: dict[str, Any] | None,
    ) -> None:
        """Write what is to be known beside scores: cost, nearest training images, the forward process."""
        from fdm.evaluation.forward import write_forward
        from fdm.evaluation.neighbours import write_neighbours

        e, sampling, batch = self.experiment, self.experiment.sampling, self.experiment.training.batch
        network, process = self.model()
        passes = sampling.passes
        cost = cost_of_run(network, process, sampling.steps, batch, train, sample, passes, sampling.spacing)
        if self.autoencoder and pretrained:
            needed = autoencoder_passes(e.method, e.dataset.channels, e.dataset.resolution)
            encoded = train.get("encoded")  # not in records of older versions
            seen = images_per_stage(train, batch)
            cost = add_autoencoder(cost, self.autoencoder.load(), pretrained, needed, seen, encoded)
        write_json(folder / "cost.json", cost)
        images = self.data.split("train").images
        held_out = self.data.split("test").images if "test" in self.data.manifest["splits"] else None
        write_neighbours(folder / "neighbours.npz", samples, images, held_out, e.dataset.flip)
        few = to_float(torch.from_numpy(np.array(images[:FORWARD_IMAGES]))).to(self.torch_device)
        write_forward(folder / "forward.npz", process, e.method, sampling, few)

    def _write_manifest(
        self, folder: Path, train: dict[str, Any], sample: dict[str, Any], pretrained: dict[str, Any] | None
    ) -> None:
        """Write ``manifest.json``: all that the run consists of, from its settings to its records."""
        before = {"pretrain": pretrained} if pretrained else {}
        *scored, manifest = EVALUATE_FILES
        record = make_record("evaluate", self.evaluate_identity, {}, self.torch_device, folder, scored)
        content = {
            "experiment": self.experiment.model_dump(mode="json"),
            "seed": self.seed,
            "identities": {
                **{kind: found["identity"] for kind, found in before.items()},
                "train": self.train_identity,
                "sample": self.sample_identity,
                "evaluate": self.evaluate_identity,
            },
            "sources": self.sources,
            "data": self.data.manifest,
            "records": {**before, "train": train, "sample": sample, "evaluate": record},
        }
        write_json(folder / manifest, sealed(content))

    # -- the model ---------------------------------------------------------------------------------------------------

    def model(self) -> tuple[torch.nn.Module, Process]:
        """The trained average and its process, on the device, ready to sample.

        Raises:
            UserError: not trained yet, damaged, or of another experiment.
        """
        e = self.experiment
        path = known_file("train", self.train_identity, "model.safetensors", self.target)
        tensors, metadata = load_tensors(path, self.train_identity)
        codec = self.autoencoder.load() if self.autoencoder else None
        try:
            calibration = read_json(metadata["calibration"])
            process = build_process(e.method, e.dataset.channels, e.dataset.resolution, calibration, codec)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path}: damaged checkpoint: its calibration does not fit ({error}); train again"
            ) from None
        network = build_network(e.network, e.dataset.resolution, process, e.classes)
        fill(network, tensors, path)
        return network.to(self.torch_device).eval(), process

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _found(self, held: ExitStack) -> dict[str, Any] | None:
        """The record of the finished training, its copies mended; else None, and the run is there, and this process's until ``held`` ends."""
        if record := exported(self.target, "train", self.train_identity):
            return record
        check_target(self.target)
        about = {"experiment": self.experiment.name, "seed": self.seed, "dataset": self.experiment.dataset.name}
        folder = run_folder("train", self.train_identity, self.pretrain_identity, about=about)
        held.enter_context(locked(folder))
        record = finished(folder, "train", self.train_identity)
        if record:
            self._export(folder, TRAIN_FILES, record)
        return record

    def _is_evaluated(self, target: Path) -> bool:
        """Are the files of this evaluation all in ``target``, and intact? There, the manifest holds the record."""
        try:
            record = read_sealed(target / "manifest.json")["records"]["evaluate"]
            own = record["identity"] == self.evaluate_identity
            return own and all(intact(target / name, record) for name in record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _record_of(self, kind: str, identity_: str) -> dict[str, Any]:
        record = known_record(kind, identity_, self.target)
        if not record:
            raise UserError(
                f"{self.experiment.name} seed {self.seed}: run `fdm {kind}` with the same experiment, seed and overrides first"
            )
        return record

    def _samples(self, record: dict[str, Any]) -> np.ndarray:
        path = known_file("sample", self.sample_identity, "samples.npy", self.target)
        try:
            samples = np.array(map_array(require_intact(path, record)))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot read the samples ({error}); delete the folder and sample again") from None
        return samples

    def _export(self, folder: Path, names: tuple[str, ...], record: dict[str, Any]) -> None:
        if self.target:
            export(folder, names, self.target, record)


def reference_of(data: Store, evaluation: EvaluationConfig) -> Kept:
    """Images that samples are scored against, and the place of their features, which all runs on the same data share."""
    from fdm.evaluation.features import Kept

    images: np.ndarray = data.split(evaluation.reference).images[: evaluation.reference_limit]
    return Kept(images, root() / "reference" / identity(data.digest, evaluation.reference, len(images)))


def _name(shard: int, shards: int) -> str:
    """Of one of several shards; empty for the whole."""
    return f"shard{shard + 1}of{shards}" if shards > 1 else ""


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
