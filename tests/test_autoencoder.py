"""Autoencoders: reconstruction, the codebook against a plain reference, standardised latents, exact resume."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fdm.config import AutoencoderConfig
from fdm.data import open_store, to_float
from fdm.errors import UserError
from fdm.evaluation.reconstruction import Reconstructions, codebook_scores, psnr, reconstruct
from fdm.networks import autoencoder
from fdm.networks.autoencoder import Autoencoder, Codebook
from fdm.networks.discriminator import Discriminator, adaptive_weight, hinge
from fdm.networks.perceptual import PerceptualLoss
from fdm.processes import Pretraining
from fdm.training.autoencoder import MODEL, AutoencoderTrainer, pretrain

KINDS: dict[str, dict[str, Any]] = {
    "vae": {},
    "vqvae": {},
    "vqgan": {"adversarial": 0.1, "adversarial_start": 0.2, "perceptual": 0.0},
}
CPU = torch.device("cpu")


def config(kind: str, **changes: Any) -> AutoencoderConfig:
    small = {"factor": 2, "latent_channels": 2, "width": 8, "codebook": 32, "images": 640, "warmup": 5, **KINDS[kind]}
    return AutoencoderConfig(kind=kind, **{**small, **changes})  # type: ignore[arg-type]


def needed(kind: str, side: int = 8, **changes: Any) -> Pretraining:
    return Pretraining(config(kind, **changes), (1, side, side), (), lambda x: x)


@pytest.fixture(scope="module")
def digits(digits8: Path) -> Tensor:
    return torch.from_numpy(open_store(digits8 / "digits8").split("train").images.copy())


@pytest.fixture(scope="module")
def held_out(digits8: Path) -> Tensor:
    return to_float(torch.from_numpy(open_store(digits8 / "digits8").split("test").images.copy()))


def run(what: Pretraining, images: Tensor, folder: Path, seed: int = 0) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return pretrain(what, "test", seed, images, False, folder, "me", CPU, checkpoint_seconds=0.0)


# --- the whole ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruction_of_unseen_images_improves(kind: str, digits: Tensor, held_out: Tensor) -> None:
    trainer = AutoencoderTrainer(needed(kind, images=9600), 0, False, CPU)
    trainer.model.eval()
    before = psnr(reconstruct(trainer.model, held_out))
    for step in range(trainer.config.steps):
        trainer.step(step, digits)
    trainer.model.eval()
    mean = to_float(digits).mean(dim=0).expand_as(held_out)
    constant = 10 * torch.log10(4 / (held_out - mean).square().mean(dim=(1, 2, 3))).mean()
    after = psnr(reconstruct(trainer.model, held_out))
    assert after > before + 3 and after > float(constant) + 1.5
    if kind != "vae":
        assert codebook_scores(trainer.model, held_out)["codebook_use"] > 0.5


@pytest.mark.parametrize("kind", ["vae", "vqvae"])
def test_latents_are_standardised(kind: str, digits: Tensor) -> None:
    model = AutoencoderTrainer(needed(kind), 0, False, CPU).model.eval()
    if isinstance(model.bottleneck, Codebook):
        model.bottleneck.codes.normal_(0, 0.2)
    x = to_float(digits[:600])  # more than one chunk
    model.measure(x)
    latents = model.encode(x.double())
    assert latents.dtype == torch.float64 and latents.shape == (600, 2, 4, 4)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.var(dim=(0, 2, 3), correction=0), torch.ones(2).double(), atol=1e-4, rtol=0)
    # Chunks change nothing, and decoding undoes standardising.
    torch.testing.assert_close(model.encode(x[:300]), model.encode(x)[:300], atol=1e-5, rtol=0)
    raw = model.bottleneck.clean(model.encoder(x[:5]))
    torch.testing.assert_close(model.decode(model.encode(x[:5])), model.decoder(raw), atol=1e-4, rtol=0)


def test_a_collapsed_encoder_is_refused(digits: Tensor) -> None:
    model = Autoencoder(config("vqvae"), (1, 8, 8)).eval()  # every code is 0
    with pytest.raises(ValueError, match="collapsed"):
        model.measure(to_float(digits[:10]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_in_the_same_weights(
    kind: str, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = needed(kind, images=800, adversarial_start=0.4) if kind == "vqgan" else needed(kind, images=800)
    calm = run(what, digits, tmp_path / "calm")
    step = AutoencoderTrainer.step

    def stopping(self: AutoencoderTrainer, number: int, images: Tensor) -> Tensor:
        if number in (3, 13):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, images)

    folder = tmp_path / "rough"
    monkeypatch.setattr(AutoencoderTrainer, "step", stopping)
    with pytest.raises(UserError, match="SIGTERM at step 4 of 25.*goes on from there"):
        run(what, digits, folder)
    with pytest.raises(UserError, match="SIGTERM at step 14 of 25"):
        run(what, digits, folder)
    rough = run(what, digits, folder)
    assert calm["steps"] == rough["steps"] == 25 and not (folder / "state.safetensors").exists()
    one, other = load_file(tmp_path / "calm" / MODEL), load_file(folder / MODEL)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    rows = (folder / "autoencoder.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(number) for number in range(25)]
    if kind == "vqgan":
        column = rows[0].split(",").index("discriminator")
        judged = [float(row.split(",")[column]) for row in rows[1:]]
        assert not any(judged[:10]) and all(judged[10:]), "the discriminator joins when it should"


def test_the_loss_must_stay_finite(digits: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite at step \d+.*Lower autoencoder.lr"):
        run(needed("vae", lr=1e30, warmup=0), digits, tmp_path / "run")
    assert not (tmp_path / "run" / MODEL).exists()


def test_flips_and_signals_reach_the_network(digits: Tensor) -> None:
    """A mixed chain encodes what the transforms before it make, here 4x4 means."""
    what = Pretraining(config("vae"), (1, 4, 4), (), lambda x: torch.nn.functional.avg_pool2d(x, 2))
    plain, flipped = (AutoencoderTrainer(what, 0, flip, CPU) for flip in (False, True))
    assert plain.model.latent_shape == (2, 2, 2)
    assert not torch.equal(plain.step(0, digits), flipped.step(0, digits))


# --- codebook -----------------------------------------------------------------------------------------------------


def test_codebook_follows_a_plain_reference() -> None:
    """Moving averages written out with loops and NumPy, over several batches."""
    generator = torch.Generator().manual_seed(0)
    book = Codebook(5, 3, decay=0.9, revive_below=0.0)
    book.codes.copy_(torch.randn(5, 3, generator=generator))
    book.sums.copy_(book.codes)
    book.counts.fill_(1.0)
    codes, counts, sums = (value.double().numpy().copy() for value in (book.codes, book.counts, book.sums))
    for _ in range(6):
        h = torch.randn(2, 3, 4, 4, generator=generator)
        vectors = h.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
        nearest = [int(np.argmin([np.sum((v - code) ** 2) for code in codes])) for v in vectors]
        expected = codes[nearest].reshape(2, 4, 4, 3).transpose(0, 3, 1, 2)
        code = book(h)
        np.testing.assert_allclose(code.latent.numpy(), expected, atol=1e-5)
        assert float(code.penalty) == pytest.approx(np.mean((h.numpy() - expected) ** 2), rel=1e-4)
        shares = np.bincount(nearest, minlength=5) / len(nearest)
        entropy = -sum(p * np.log(p) for p in shares if p > 0)
        assert float(code.perplexity) == pytest.approx(np.exp(entropy), rel=1e-4)
        for k in range(5):
            mine = [v for v, index in zip(vectors, nearest, strict=True) if index == k]
            counts[k] = 0.9 * counts[k] + 0.1 * len(mine)
            sums[k] = 0.9 * sums[k] + 0.1 * np.sum(mine, axis=0) if mine else 0.9 * sums[k]
        total = counts.sum()
        for k in range(5):
            codes[k] = sums[k] / ((counts[k] + 1e-5) / (total + 5e-5) * total)
        np.testing.assert_allclose(book.codes.numpy(), codes, atol=1e-5)


def test_vectors_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    book = Codebook(5, 3, decay=0.9, revive_below=0.0)
    book.codes.copy_(torch.randn(5, 3, generator=generator))
    vectors = torch.randn(20, 3, generator=generator)
    whole = book.nearest(vectors)
    seen, distances = [], book._distances
    monkeypatch.setattr(book, "_distances", lambda some: seen.append(len(some)) or distances(some))
    monkeypatch.setattr(autoencoder, "VECTORS", 7)
    assert torch.equal(book.nearest(vectors), whole) and seen == [7, 7, 6]


def test_the_gradient_passes_the_codebook_unchanged() -> None:
    book = Codebook(4, 2, 0.9, 0.1)
    h = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    (book(h).latent * wanted).sum().backward()
    torch.testing.assert_close(h.grad, wanted)


def test_dead_codes_are_revived_where_the_error_is() -> None:
    torch.manual_seed(0)
    # Two clusters; both codes sit on the first, a third is never used.
    vectors = torch.cat([torch.zeros(60, 2), torch.full((4, 2), 10.0)]) + 0.01 * torch.randn(64, 2)
    book = Codebook(3, 2, decay=0.5, revive_below=0.5)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [0.05, 0.05], [-50.0, -50.0]]))
    book.sums.copy_(book.codes)
    book.counts.fill_(1.0)
    h = vectors.reshape(1, 8, 8, 2).movedim(-1, 1)
    for _ in range(12):
        book(h)
    assert (book.codes - 10).abs().amax(dim=1).min() < 1.0, "a code has moved to the cluster that had none"
    error = (book.eval().clean(h) - h).abs().max()
    assert error < 0.1 and book.counts.min() >= 0


def test_the_first_batch_places_every_code() -> None:
    torch.manual_seed(0)
    book = Codebook(16, 2, 0.99, 0.1)
    h = torch.randn(8, 2, 8, 8)
    book(h)
    assert len(book.codes.unique(dim=0)) > 10 and len(book.nearest(h.movedim(1, -1).flatten(0, -2)).unique()) > 10
    before = book.codes.clone()
    book.eval()(h)
    assert torch.equal(book.codes, before), "nothing moves outside training"


# --- losses and scores --------------------------------------------------------------------------------------------


def test_divergence_is_that_of_the_closed_form() -> None:
    model = Autoencoder(config("vae"), (1, 8, 8))
    mean, log_variance = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    found = model.bottleneck(torch.cat([mean, log_variance], dim=1)).penalty
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(found, expected)


def test_hinge_and_adaptive_weight() -> None:
    assert float(hinge(torch.tensor([2.0]), torch.tensor([-2.0]))) == 0
    assert float(hinge(torch.tensor([0.0]), torch.tensor([0.0]))) == 1
    layer = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    weight = adaptive_weight((3 * layer).sum(), (0.5 * layer).sum(), layer)
    assert float(weight) == pytest.approx(6, rel=1e-4) and not weight.requires_grad


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_discriminator_judges_patches(side: int) -> None:
    verdict = Discriminator((1, side, side), 8)(torch.zeros(2, 1, side, side))
    assert verdict.shape[:2] == (2, 1) and min(verdict.shape[2:]) >= 4


def test_perceptual_distance_grows_and_stays_frozen() -> None:
    loss = PerceptualLoss().train()
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.modules())
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    noise = torch.randn_like(x)
    distances = [float(loss((x + s * noise).clamp(-1, 1), x)) for s in (0, 0.1, 0.5)]
    assert distances[0] < 1e-6 < distances[1] < distances[2]
    y = x.clone().requires_grad_()
    loss(y, x.flip(-1)).backward()
    assert y.grad is not None and bool(y.grad.any())


def test_psnr_of_known_errors() -> None:
    black = np.zeros((2, 1, 4, 4), np.uint8)
    assert psnr(Reconstructions(black, black + 255)) == pytest.approx(0)
    assert psnr(Reconstructions(black, black + 1)) == pytest.approx(48.13, abs=0.01)
    assert np.isfinite(psnr(Reconstructions(black, black)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factor": 3}, "power of 2"),
        ({"width": 12}, "multiple of 8"),
        ({"adversarial": 0.5}, "a vqgan needs it positive"),
        ({"kind": "vqgan"}, "a vqgan needs it positive"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AutoencoderConfig(**{"kind": "vqvae", **changes})


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="6x6 pixels cannot be encoded with factor 4"):
        config("vae", factor=4).latent_shape((1, 6, 6))
