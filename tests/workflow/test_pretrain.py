"""The rule ``pretrain``: for latent signals only, and once for experiments with the same autoencoder."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Repository

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("workflow")]

BLOCK = {"kind": "vqvae", "factor": 2, "latent_channels": 2, "width": 8, "codebook": 16, "images": 320, "warmup": 5}


def _latent(suite: dict[str, Any]) -> None:
    transforms = [{"kind": "latent", "autoencoder": BLOCK}]
    suite["experiments"] |= {
        "fdm-latent": {"method": "fdm-vqvae", "overrides": {"method": {"transforms": transforms}}},
        "ldm": {"method": "ldm-vqvae", "overrides": {"method": {"autoencoder": BLOCK}}},
    }


def test_latent_experiments_are_pretrained_and_share(clone: Repository) -> None:
    clone.edit_suite(_latent)
    expected = {"prepare": 1, "pretrain": 2, "train": 4, "sample": 4, "evaluate": 4, "report": 1}
    assert clone.plan() == expected
    clone.snakemake("results/smoke/ldm/seed0/train.json")
    folders = [clone.root / "results/smoke" / name / "seed0" for name in ("fdm-latent", "ldm")]
    weights = [(folder / "autoencoder.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] and len(list(clone.root.glob("work/pretrain-*"))) == 1
    assert json.loads((folders[1] / "pretrain.json").read_text())["metrics"]["psnr"] > 0
    needs = [json.loads(path.read_text()) for path in clone.root.glob("work/train-*/needs.json")]
    assert needs == [[json.loads((folders[1] / "pretrain.json").read_text())["identity"]]]  # for `fdm gc`
    assert clone.plan() == {"train": 3, "sample": 4, "evaluate": 4, "report": 1}
