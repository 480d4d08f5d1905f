"""The report's section on autoencoders, from synthetic records of pretraining (docs/pretraining.md)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report import dump, edit, make_results

from fdm.errors import UserError
from fdm.report import build

SHARED = ("fdm-ds-2", "fdm-ds-3")


def add_autoencoder(folder: Path, identity: str = "p" * 16, kind: str = "vqvae", psnr: float = 28.5) -> None:
    """Make a run of ``make_results`` one with a latent signal."""
    scores: dict[str, Any] = {"codebook_use": 0.98, "perplexity": 174.2} if kind != "vae" else {}
    record = {
        "kind": "pretrain",
        "identity": identity,
        "parameters": 246_245,
        "latent_shape": [4, 8, 8],
        "steps": 125,
        "images": 4000,
        "seconds": 45.4,
        "perceptual_network": None,
        "metrics": {
            "count": 500,
            "split": "test",
            "psnr": psnr,
            **scores,
            "features": {"efficientnet-lite0": {"frechet_distance": 58.2}},
        },
        "device": "cpu (2 cores)",
        "provenance": {"revision": "a" * 40, "packages": {"torch": "2.11.0"}},
    }
    dump(folder / "pretrain.json", record)
    rng = np.random.default_rng([len(kind), sum(map(ord, identity))])
    losses = [np.exp(-step / 30) + rng.uniform(0.1, 0.12) for step in range(1, 126)]
    rows = [f"{step},{step * 32},{loss:.6f},{0.8 * loss:.6f}" for step, loss in enumerate(losses, 1)]
    (folder / "autoencoder.csv").write_text("\n".join(["step,images,loss,reconstruction", *rows]) + "\n")
    Image.fromarray(rng.integers(0, 255, (256, 256), dtype=np.uint8)).save(folder / "reconstructions.png")

    def latent(content: dict[str, Any]) -> None:
        content["identities"]["pretrain"] = identity
        content["records"]["pretrain"] = record
        block = {"kind": kind, "factor": 4, "codebook": 256}
        content["experiment"]["method"]["transforms"] = [{"kind": "latent", "autoencoder": block}]

    edit(folder / "manifest.json", latent)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three experiments, of which two share one autoencoder."""
    monkeypatch.chdir(tmp_path)
    results = make_results(tmp_path)
    for name in SHARED:
        add_autoencoder(results / name / "seed0")
    return results


def test_experiments_that_share_an_autoencoder_are_one_row(results: Path) -> None:
    target = build("demo", results, Path("reports/demo")).parent
    rows = list(csv.DictReader((target / "tables/autoencoders.csv").open()))
    assert len(rows) == 1
    row, record = rows[0], json.loads((results / SHARED[0] / "seed0/pretrain.json").read_text())
    assert row["title"] == "VQ-VAE, factor 4, 256 codes"
    assert row["used_by"] == "f-DM-DS, 2 stages; f-DM-DS, 3 stages" and row["latent"] == "4×8×8"
    for key in ("psnr", "codebook_use", "perplexity"):
        assert float(row[key]) == record["metrics"][key]
    for key in ("parameters", "images", "seconds"):
        assert float(row[key]) == record[key]
    assert float(row["efficientnet-lite0/frechet_distance"]) == 58.2
    text = (target / "index.html").read_text()
    assert "Reconstruction Fréchet distance (EfficientNet-Lite0)" in text and "rFID" not in text
    assert "Held-out images and their reconstructions by VQ-VAE" in text
    assert (target / "figures/autoencoders.svg").is_file()


def test_other_autoencoders_and_names_of_distances(results: Path) -> None:
    add_autoencoder(results / "fdm-ds-3/seed0", "q" * 16, "vae", 31.0)
    for name in SHARED:
        edit(
            results / name / "seed0/pretrain.json",
            lambda content: content["metrics"].update(features={"inception-v3": {"rfid": None}}),
        )
    target = build("demo", results, Path("reports/demo")).parent
    rows = list(csv.DictReader((target / "tables/autoencoders.csv").open()))
    assert [(row["title"], row["psnr"], row["perplexity"]) for row in rows] == [
        ("VQ-VAE, factor 4, 256 codes", "28.5", "174.2"),
        ("VAE, factor 4", "31.0", ""),
    ]
    assert "rFID (Inception-v3)" in (target / "tables/autoencoders.md").read_text()


def test_without_latent_signals_there_is_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = build("demo", make_results(tmp_path), Path("reports/demo")).parent
    assert not (target / "tables/autoencoders.csv").exists()
    assert 'id="autoencoders"' not in (target / "index.html").read_text()


@pytest.mark.parametrize(
    ("file", "said"),
    [("pretrain.json", "missing or unreadable"), ("autoencoder.csv", "damaged"), ("reconstructions.png", "damaged")],
)
def test_a_missing_file_is_one_line(results: Path, file: str, said: str) -> None:
    (results / "fdm-ds-2/seed0" / file).unlink()
    with pytest.raises(UserError, match=rf"fdm-ds-2/seed0/{file}.*{said}.*fdm pretrain") as caught:
        build("demo", results, Path("reports/demo"))
    assert "\n" not in str(caught.value)


def test_a_record_of_another_autoencoder_is_refused(results: Path) -> None:
    edit(results / "fdm-ds-2/seed0/pretrain.json", lambda content: content.update(identity="z" * 16))
    with pytest.raises(UserError, match="its identity is not the one in manifest"):
        build("demo", results, Path("reports/demo"))
