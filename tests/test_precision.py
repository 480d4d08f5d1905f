"""Which precision a training takes, that it keeps it, and what bfloat16 does to samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from fdm.config import NetworkConfig
from fdm.data import open_store
from fdm.errors import UserError
from fdm.experiment import load_experiment
from fdm.networks.build import build_network
from fdm.networks.normalisation import GroupNorm, group_norm
from fdm.precision import WIDE, choose_precision
from fdm.processes import build_process
from fdm.sampling.sampler import network_denoiser
from fdm.tensors import load_tensors
from fdm.training import loop
from fdm.training.checkpoint import restore_optimizer


def test_auto_takes_bf16_where_it_is_native_and_the_network_is_wide() -> None:
    narrow, wide = NetworkConfig(channels=16, mult=(1, 2)), NetworkConfig(channels=WIDE, mult=(1, 2))
    assert choose_precision("auto", wide, native=True) == "bf16"
    assert choose_precision("auto", wide, native=False) == "32"
    assert choose_precision("auto", narrow, native=True) == "32"
    for asked in ("32", "bf16"):
        assert {choose_precision(asked, network, native) for network in (narrow, wide) for native in (0, 1)} == {asked}


def _train(root: Path, folder: Path, precision: str, images: int = 3200) -> None:
    folder.mkdir(exist_ok=True)
    experiment = load_experiment("smoke:ddpm", [f"training.precision={precision}", f"training.images={images}"])
    data = open_store(root / "data/digits8").split("train")
    record = loop.train(experiment, 0, data, folder, "x", Fabric(accelerator="cpu", devices=1), 0.0)
    assert record is not None and record["precision"] == ("bf16" if precision == "bf16" else "32")


def test_a_training_goes_on_in_the_precision_in_which_it_began(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where "auto" would choose another one on the machine that goes on."""
    whole, parts = smoke / "whole", smoke / "parts"
    _train(smoke, whole, "bf16")

    class Stopped(Exception):
        pass

    saved = loop.Trainer.save

    def save_and_stop(self: loop.Trainer, *arguments: object) -> None:
        saved(self, *arguments)  # type: ignore[arg-type]
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "save", save_and_stop)
        patch.setattr(loop, "choose_precision", lambda *_: "bf16")  # a machine with bfloat16 units
        with pytest.raises(Stopped):
            _train(smoke, parts, "auto")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "choose_precision", lambda *_: "32")
        experiment = load_experiment("smoke:ddpm", ["training.precision=auto", "training.images=3200"])
        data = open_store(smoke / "data/digits8").split("train")
        record = loop.train(experiment, 0, data, parts, "x", Fabric(accelerator="cpu", devices=1), 30.0)
    assert record is not None and record["precision"] == "bf16"
    one, other = (load_tensors(folder / "model.safetensors", "x")[0] for folder in (whole, parts))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", [None, "float8"])
def test_a_state_without_its_precision_is_named(smoke: Path, precision: str | None) -> None:
    folder = smoke / "run"
    folder.mkdir()
    experiment = load_experiment("smoke:ddpm", ["training.images=640"])
    fabric = Fabric(accelerator="cpu", devices=1)
    one = loop.Trainer(experiment, 0, build_process(experiment.method, 1, 8), fabric)
    said = {"identity": "x", "step": "0", "seconds": "0.0", "log": ""} | ({"precision": precision} if precision else {})
    one.save(folder / "state.safetensors", said)
    with pytest.raises(UserError, match="does not say in which precision"):
        loop.train(experiment, 0, open_store(smoke / "data/digits8").split("train"), folder, "x", fabric, 30.0)


def test_samples_in_bf16_are_near_those_in_float32(project: Path) -> None:
    experiment = load_experiment("smoke:fdm-ds-3")
    network = build_network(experiment.network, 8, build_process(experiment.method, 1, 8)).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # the last layers start at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        plain = network_denoiser(network, "cpu")(z, 0.2, 0)
        half = network_denoiser(network, "cpu", precision="bf16")(z, 0.2, 0)
    assert half.dtype == torch.float32 and not torch.equal(plain, half)
    torch.testing.assert_close(plain, half, rtol=0.05, atol=0.02 * float(plain.abs().max()))


@pytest.mark.parametrize(("fused", "where"), [(True, "meta"), (False, "cpu")])
def test_the_step_count_of_a_fused_optimiser_follows_its_parameter(fused: bool, where: str, tmp_path: Path) -> None:
    """The fused kernel reads it on the device; "meta" stands for one that is not here."""
    model = torch.nn.Linear(2, 1, bias=False, device="meta")
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.defaults["fused"] = fused
    kept = {"step": torch.ones(()), "exp_avg": torch.zeros(1, 2), "exp_avg_sq": torch.zeros(1, 2)}
    restore_optimizer(
        model, optimizer, {f"optimizer.{key}.weight": value for key, value in kept.items()}, tmp_path / "state"
    )
    state = optimizer.state[model.weight]
    assert state["step"].device.type == where and state["exp_avg"].device.type == "meta"


@pytest.mark.parametrize("mean", [1.0, 40.0])
@pytest.mark.parametrize("channels, side", [(16, 8), (96, 12)])
def test_group_norm_in_bf16_has_the_gradients_of_float64(channels: int, side: int, mean: float) -> None:
    """Values and gradients, beside those that torch's own backward pass gives in bfloat16."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = (mean + 2 * random(3, channels, side, side)).bfloat16().double()
    x = x.contiguous(memory_format=torch.channels_last)
    dy, weight, bias = random(3, channels, side, side), 1 + 0.3 * random(channels), random(channels)

    def gradients(norm: torch.nn.GroupNorm, dtype: torch.dtype) -> list[torch.Tensor]:
        norm.load_state_dict({"weight": weight, "bias": bias})
        z = x.detach().to(dtype).requires_grad_()
        y = norm(z)
        y.backward(dy.to(dtype))
        assert z.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
        return [value.double() for value in (y.detach(), z.grad, norm.weight.grad, norm.bias.grad)]

    own = group_norm(channels)
    plain = torch.nn.GroupNorm(own.num_groups, channels)
    truth = gradients(torch.nn.GroupNorm(own.num_groups, channels).double(), torch.float64)
    for exact, mine, torchs in zip(
        truth, gradients(own, torch.bfloat16), gradients(plain, torch.bfloat16), strict=True
    ):
        error, usual = float((mine - exact).norm() / exact.norm()), float((torchs - exact).norm() / exact.norm())
        assert error < max(1.5 * usual, 2**-7), "two roundings to bfloat16"
        assert not torch.isnan(mine).any()


def test_float32_keeps_torchs_own_group_norm() -> None:
    norm, x = group_norm(16), torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    assert isinstance(norm, GroupNorm) and "NativeGroupNorm" in norm(x).grad_fn.name()
    assert "ChannelsLast" in norm(x.bfloat16()).grad_fn.name()
    with torch.no_grad():
        assert norm(x.bfloat16()).grad_fn is None
