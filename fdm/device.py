"""The machine a run is on: which device, its name, its memory and its clock."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from functools import cache
from pathlib import Path

import torch

from fdm.errors import UserError

NVIDIA = Path("/dev/nvidia0")
"""There where the driver of a first GPU is loaded."""


def choose(name: str) -> torch.device:
    """The device for "auto" (a GPU if there is one, with a word where torch cannot use the one there is), "cpu" or "cuda".

    Raises:
        UserError: there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: must be auto, cpu or cuda")
    if name == "cpu" or not torch.cuda.is_available():
        if name == "cuda":
            raise UserError("--device cuda: torch finds no GPU here; use cpu or auto")
        if name == "auto":
            _note_unused()
        return torch.device("cpu")
    _prepare_cuda()
    return torch.device("cuda")


@cache
def _note_unused() -> None:
    """Say once that a GPU is left idle, if so; not where the user has hidden it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes of a training, one speaks
    if torch.backends.cuda.is_built() and NVIDIA.exists() and first and not hidden:
        print(
            "warning: there is a GPU here, but torch cannot use it (its driver may be too old for this torch); going on with the CPU",
            file=sys.stderr,
            flush=True,
        )


def _prepare_cuda() -> None:
    """Have a GPU give the same bits whenever a run is repeated or resumed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    # Not with warn_only, under which the backward passes of attention stay as they are, each run with other bits.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def device_name(device: torch.device) -> str:
    """The card's name, or the processor's with its family and model: virtual machines give CPUs of very different speed one name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        kind = [f"{key.removeprefix('cpu ')} {told[key]}" for key in ("cpu family", "model") if key in told]
        return told["model name"] + (f" ({', '.join(kind)})" if kind else "")
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``; from pinned memory, so that a GPU goes on computing meanwhile."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class Constant:
    """A tensor that goes to a device once, however often it is needed there."""

    def __init__(self, value: torch.Tensor) -> None:
        self._value, self._copies = value, {value.device: value}

    def on(self, device: torch.device) -> torch.Tensor:
        """The copy there."""
        if device not in self._copies:
            self._copies[device] = self._value.to(device)
        return self._copies[device]


def reset_peak_memory(device: torch.device | str) -> None:
    """Begin to count anew on a GPU; a process cannot."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device | str) -> int:
    """Bytes at the peak: of the device's allocator on a GPU, of this process since its start elsewhere."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stopwatch(device: torch.device | str) -> float:
    """Seconds of a monotonic clock, after the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
