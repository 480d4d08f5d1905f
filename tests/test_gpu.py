"""What only happens on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commandline import attempt
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fdm import device
from fdm.config import NetworkConfig
from fdm.device import choose
from fdm.networks.layers import ResidualBlock, Upsample
from fdm.networks.unet import UNet
from fdm.processes import Stage
from fdm.training.loop import Trainer


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose torch finds a GPU; what ``choose`` sets for it is taken back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "built", "there", "visible", "said"),
    [
        ("auto", True, True, None, True),
        ("auto", True, True, "0,1", True),
        ("auto", True, True, "", False),
        ("auto", True, False, None, False),
        ("auto", False, True, None, False),
        ("cpu", True, True, None, False),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    built: bool,
    there: bool,
    visible: str | None,
    said: bool,
) -> None:
    device._note_unused.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    monkeypatch.setattr(device, "NVIDIA", tmp_path if there else tmp_path / "none")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for _ in range(2):
        assert choose(name).type == "cpu"
    assert capsys.readouterr().err.count("warning: there is a GPU here") == said
    device._note_unused.cache_clear()


def test_a_full_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, smoke: Path) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which\n1 GiB is free."
        )

    monkeypatch.setattr(Trainer, "step", full)
    outcome = attempt("train", "smoke:ddpm", "--threads", "1")
    assert outcome.refused
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("error: GPU: CUDA out of memory. Tried to allocate 2.00 GiB; it needs less with")
    assert all(key in line for key in ("training.accumulate", "sampling.micro_batch", "sampling.batch"))


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_gives_the_same_bits_again(gpu: None, name: str) -> None:
    assert choose("cpu").type == "cpu" and not torch.are_deterministic_algorithms_enabled()
    assert choose(name) == torch.device("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention's backward pass would stay as it is
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.fixture
def autocast() -> Iterator[None]:
    """bfloat16 autocast of a GPU; ``torch.autocast`` itself turns itself off where there is none."""
    try:
        with FakeTensorMode():
            torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        pytest.skip(f"this build of torch has no GPU's tensors, even without values: {error}")
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_autocast_dtype("cuda", before)


def test_features_stay_in_bfloat16_on_a_gpu(autocast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, activations and up-sampling too; of these the backward pass keeps the most. Tensors without values say so."""
    config = NetworkConfig(channels=8, mult=(1, 2, 2), blocks=1, attention=(), head_channels=8)
    found: dict[torch.dtype, list[str]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert output.device.type == "cuda"
        for value in (inputs[0], output):
            found.setdefault(value.dtype, []).append(type(module).__name__)

    monkeypatch.setattr(UNet, "to", lambda self, **_: self)  # tensors without values cannot change their layout
    with FakeTensorMode(), torch.device("cuda"):
        network = UNet(config, 8, (Stage(0, 0.0, 1.0, (1, 8, 8), 1, 8),))
        for module in network.modules():
            if isinstance(module, (nn.GroupNorm, nn.Conv2d, ResidualBlock, Upsample)):
                module.register_forward_hook(note)
        network(torch.zeros(2, 1, 8, 8), torch.zeros(2), 0)
    assert found.pop(torch.float32) == ["Conv2d"]  # what comes in
    assert list(found) == [torch.bfloat16] and {"GroupNorm", "ResidualBlock", "Upsample"} <= set(found[torch.bfloat16])
