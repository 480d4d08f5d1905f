"""What only happens on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from fdm.device import choose


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose torch finds a GPU; what ``choose`` sets for it is taken back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_gives_the_same_bits_again(gpu: None, name: str) -> None:
    assert choose("cpu").type == "cpu" and not torch.are_deterministic_algorithms_enabled()
    assert choose(name) == torch.device("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention's backward pass would stay as it is
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_float32_means_float32_on_every_gpu(gpu: None) -> None:
    choose("cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):  # as scores are computed
        assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
