"""The autoencoders behind a suite's runs: read from the files that pretraining left, table and figure.

Experiments that share an autoencoder share its identity; it is one row, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fdm.data.sources.files import read_image
from fdm.errors import UserError
from fdm.report.axes import plain_log
from fdm.report.figures import WINDOWS, windows
from fdm.report.files import File, Manifest, again, read_curve, read_json
from fdm.report.names import slug
from fdm.report.numbers import Kind, estimate_present, scale
from fdm.report.origin import Origin, Source
from fdm.report.results import Results, Run
from fdm.report.style import DASHES, PALETTE
from fdm.report.table import Cell, Header, Row, Table, printed
from fdm.report.tables import MEAN, NO_TIMES, network_title

CURVE = ("step", "images", "loss", "reconstruction")
FILES = ("pretrain.json", "autoencoder.csv", "reconstructions.png")


class Metrics(File):
    """Scores on held-out images; ``features`` by network: ``rfid`` (Inception-v3) or ``frechet_distance``, or null."""

    count: int
    split: str
    psnr: float
    codebook_use: float | None = None
    perplexity: float | None = None
    features: dict[str, dict[str, float | None]]


class Record(File):
    """``pretrain.json``."""

    identity: str
    parameters: int
    latent_shape: tuple[int, ...]
    steps: int
    images: int
    seconds: float
    device: str
    perceptual_network: str | None
    metrics: Metrics


@dataclass(frozen=True)
class Pretraining:
    """One finished pretraining, under one seed."""

    seed: int
    folder: Path
    record: Record

    @cached_property
    def curve(self) -> pd.DataFrame:
        """``autoencoder.csv``, checked; read when it is first needed."""
        return read_curve(self.folder, "autoencoder.csv", CURVE, "pretrain")

    def reconstructions(self) -> Image.Image:
        """Held-out images, each followed by its reconstruction."""
        path = self.folder / "reconstructions.png"
        try:
            return read_image(path, str(path)).convert("RGB")
        except UserError:
            raise UserError(f"{path}: missing or damaged; {again(self.folder, 'pretrain')}") from None


@dataclass(frozen=True)
class Autoencoder:
    """One autoencoder: the experiments that use it, and its pretrainings, one per seed."""

    name: str
    title: str
    experiments: tuple[str, ...]
    runs: tuple[Pretraining, ...]


def autoencoders(results: Results) -> list[Autoencoder]:
    """All autoencoders of a suite in the order in which its experiments meet them; empty where no run has one.

    Raises:
        UserError: a file is missing, damaged or of another run.
    """
    owners: dict[tuple[str, ...], list[str]] = {}
    runs: dict[tuple[str, ...], list[Run]] = {}
    for method in results.methods:
        with_one = [run for run in method.runs if "pretrain" in run.manifest.identities]
        if with_one:
            # Equal identities under every seed: the same autoencoder.
            key = tuple(run.manifest.identities["pretrain"] for run in with_one)
            owners.setdefault(key, []).append(method.name)
            runs.setdefault(key, with_one)
    titles = [_title(found[0].manifest) for found in runs.values()]
    found = []
    for i, (key, own) in enumerate(runs.items()):
        # Equal titles (autoencoders of different inputs, or settings that the title leaves out) are told apart by a number.
        title = titles[i] if titles.count(titles[i]) == 1 else f"{titles[i]} ({titles[: i + 1].count(titles[i])})"
        found.append(Autoencoder(f"autoencoder-{i}", title, tuple(owners[key]), tuple(_load(run) for run in own)))
    return found


def table(found: Sequence[Autoencoder], results: Results) -> Table:
    """One row per autoencoder: how well it gives back held-out images, and what it took."""
    columns: list[tuple[str, str, Kind, str, Source]] = [
        ("psnr", "PSNR (dB)", "score", "held-out images", _source("metrics", "psnr"))
    ]
    for network, score in _scores(found):
        name = "rFID" if score == "rfid" else "Reconstruction Fréchet distance"
        columns.append(
            (
                f"{network}/{score}",
                f"{name} ({network_title(network)})",
                "score",
                "held-out images",
                _source("metrics", "features", network, score),
            )
        )
    columns += [
        ("codebook_use", "Codes used", "ratio", "codebook", _source("metrics", "codebook_use")),
        ("perplexity", "Perplexity", "rate", "codebook", _source("metrics", "perplexity")),
        ("parameters", "Parameters", "count", "", _source("parameters")),
        ("images", "Images seen", "count", "pretraining", _source("images")),
    ]
    if len(_devices(found)) == 1:
        columns.append(("seconds", "Time", "seconds", "pretraining", _source("seconds")))
    titles = {method.name: method.title for method in results.methods}
    headers, cells = [Header("used_by", "Used by", numeric=False)], [[_text(own, titles)] for own in found]
    headers.append(Header("latent", "Latent", numeric=False))
    for line, own in zip(cells, found, strict=True):
        shape = "×".join(map(str, own.runs[0].record.latent_shape))
        line.append(Cell(shape, shape))
    for key, label, kind, group, source in columns:
        values = [estimate_present(source.read(run.record) for run in own.runs) for own in found]
        # A share reads best as 0.98, not as a multiple.
        how = scale([known.mean for known in values if known], "score" if kind == "ratio" else kind)
        headers.append(Header(key, label, how.unit, group))
        origin = Origin((source,), MEAN)
        for line, known in zip(cells, values, strict=True):
            line.append(printed(known, how, origin))
    rows = [
        Row(own.name, own.title, len(own.runs), tuple(line), own.experiments, f"run-{slug(own.experiments[0])}")
        for own, line in zip(found, cells, strict=True)
    ]
    return Table("autoencoders", "Autoencoders", _caption(found), tuple(headers), tuple(rows), "Autoencoder")


def curves(found: Sequence[Autoencoder]) -> Figure:
    """Loss and its reconstruction term against images seen; mean over windows and seeds, band from lowest to highest seed."""
    rows = -(-len(found) // 2)
    height = 2.9 + 0.22 * rows
    figure = Figure(figsize=(8.6, height), layout=None)
    panels = figure.subplots(1, 2, squeeze=False)[0]
    figure.subplots_adjust(left=0.085, right=0.985, top=1 - 0.3 / height, bottom=(0.22 * rows + 0.75) / height)
    most = max(int(run.curve["images"].max()) for own in found for run in own.runs)
    how = scale([most], "count")
    for axes, term, title in zip(panels, CURVE[2:], ("Total loss", "Reconstruction term"), strict=True):
        for i, own in enumerate(found):
            means = windows((run.curve for run in own.runs), term, most)
            x = (means.index.to_numpy() - 0.5) * most / WINDOWS / how.divisor
            colour, dash = PALETTE[i % len(PALETTE)][0], DASHES[i % len(DASHES)]
            axes.plot(x, means.mean(axis=1), color=colour, linestyle=dash, linewidth=1.5, label=own.title)
            if means.shape[1] > 1:
                axes.fill_between(x, means.min(axis=1), means.max(axis=1), color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title)
        axes.set_xlim(0, most / how.divisor)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"images seen{f' ({how.unit})' if how.unit else ''}")
        if min(line.get_ydata().min() for line in axes.lines) > 0:
            axes.set_yscale("log")
            plain_log(axes)
    panels[0].set_ylabel("loss")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(2, len(found)), handlelength=2.6, columnspacing=2.0)
    return figure


def _load(run: Run) -> Pretraining:
    path = run.folder / "pretrain.json"
    record = read_json(path, Record, "pretrain")
    if record.identity != run.manifest.identities["pretrain"]:
        raise UserError(f"{path}: its identity is not the one in manifest.json; {again(run.folder, 'evaluate')}")
    return Pretraining(run.seed, run.folder, record)


def _title(manifest: Manifest) -> str:
    """Kind, factor and codebook of the autoencoder in a resolved experiment."""
    config = next(_configs(manifest.experiment.get("method", {})), {})
    kind = {"vae": "VAE", "vqvae": "VQ-VAE", "vqgan": "VQGAN"}.get(str(config.get("kind")), "Autoencoder")
    parts = [f"factor {config['factor']}"] if "factor" in config else []
    parts += [f"{config['codebook']:,} codes"] if "codebook" in config and config.get("kind") != "vae" else []
    return ", ".join([kind, *parts])


def _configs(value: Any) -> Iterator[Mapping[str, Any]]:
    """Blocks named ``autoencoder`` anywhere in a method's configuration."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "autoencoder" and isinstance(item, Mapping):
                yield item
            else:
                yield from _configs(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _configs(item)


def _scores(found: Sequence[Autoencoder]) -> list[tuple[str, str]]:
    scores = (
        (network, score)
        for own in found
        for run in own.runs
        for network, values in run.record.metrics.features.items()
        for score in values
    )
    return list(dict.fromkeys(scores))


def _source(*path: str) -> Source:
    return Source("pretrain.json", *path)


def _text(own: Autoencoder, titles: Mapping[str, str]) -> Cell:
    text = "; ".join(titles[name] for name in own.experiments)
    return Cell(text, text)


def _devices(found: Sequence[Autoencoder]) -> list[str]:
    """Where they were trained."""
    return list(dict.fromkeys(run.record.device for own in found for run in own.runs))


def _caption(found: Sequence[Autoencoder]) -> str:
    records, devices = [run.record for own in found for run in own.runs], _devices(found)
    counts = dict.fromkeys(f"{record.metrics.count:,} ({record.metrics.split})" for record in records)
    said = (
        f"Held-out images: {' or '.join(counts)}. PSNR is the mean over images. The reconstruction Fréchet distance "
        "compares held-out images with their own reconstructions and does not compare with distances of samples. Codes "
        "used: the share of the codebook that occurs at least once; perplexity: exp of the entropy of their frequencies; "
        f"a dash where there is no codebook, there are too few images, or that network has not scored it. {f'Time was measured on {devices[0]}.' if len(devices) == 1 else NO_TIMES}"
    )
    if any(len(own.runs) > 1 for own in found):
        said += " Means over seeds with 95 % t-intervals."
    if networks := dict.fromkeys(record.perceptual_network for record in records if record.perceptual_network):
        said += f" The perceptual loss uses {', '.join(map(network_title, networks))}; it is not LPIPS."
    return said
