"""The autoencoders behind methods with latent signals; absent where no run has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fdm.report.autoencoders import FILES, Autoencoder, autoencoders, curves, table
from fdm.report.results import Results
from fdm.report.samples import encode
from fdm.report.section import Canvas, Gallery, Picture, Section
from fdm.report.table import Table

ORDER = 45


def tables(results: Results) -> tuple[Table, ...]:
    """One table, or none where no run has an autoencoder."""
    found = autoencoders(results)
    return (table(found, results),) if found else ()


def _drawable(found: Sequence[Autoencoder]) -> list[Autoencoder]:
    """Those with pretrainings whose curve and pictures are here, which published results need not have."""
    kept = [
        replace(own, runs=tuple(run for run in own.runs if all((run.folder / name).is_file() for name in FILES)))
        for own in found
    ]
    return [own for own in kept if own.runs]


def build(canvas: Canvas) -> Section | None:
    """Scores and budget, loss curves, and reconstructions of held-out images."""
    found = autoencoders(canvas.results)
    if not found:
        return None
    titles = {method.name: method.title for method in canvas.results.methods}
    drawn = _drawable(found) if canvas.results.partial else found
    if not drawn:
        return Section("autoencoders", "Autoencoders", (table(found, canvas.results),))
    figure = canvas.draw(
        "autoencoders",
        "Pretraining loss against images seen",
        "Mean of the logged losses over windows of 1/40 of the longest budget and over seeds (band: lowest to highest seed). "
        "The total weights its terms as each configuration says, so totals of different kinds do not compare; the "
        "reconstruction term has no weight. Where the discriminator of a VQGAN joins, its total steps up.",
        "Loss of pretraining against images seen, one line per autoencoder: total and reconstruction term",
        curves(drawn),
    )
    pictures = []
    for own in drawn:
        image = own.runs[0].reconstructions()
        media, content = encode(np.asarray(image.convert("RGBA")))
        alt = f"Held-out images and their reconstructions by {own.title}, seed {own.runs[0].seed}"
        caption = f"Used by {'; '.join(titles[name] for name in own.experiments)}. Seed {own.runs[0].seed}."
        pictures.append(
            Picture(own.name, own.title, caption, alt, media, content, image.width, image.height, own.experiments)
        )
    caption = (
        "Trained before the denoisers and then frozen; experiments with the same autoencoder share it. In the pictures "
        "every image is followed by its reconstruction."
    )
    blocks = (table(found, canvas.results), figure, Gallery(tuple(pictures)))
    return Section("autoencoders", "Autoencoders", blocks, caption)
