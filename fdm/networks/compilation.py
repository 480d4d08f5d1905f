"""``torch.compile`` of a network, in place: one program for every stage, batch size and memory layout that it meets."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn

from fdm.errors import UserError

PROGRAMS = 64
"""How many programs the code of a network may have; torch stops at 8 and goes on uncompiled without an error."""


def compile_network(network: nn.Module, *, graphs: bool) -> None:
    """Compile ``network`` when it is next called; its parameters and their names stay as they are.

    Programs are kept on disk (``TORCHINDUCTOR_CACHE_DIR``), so that only the first run of a network on a machine waits for them.

    Args:
        graphs: on a GPU, replay CUDA graphs too: for networks that are called without gradients. Outputs have to be copied
            before the next call, which writes to the same memory.

    Raises:
        UserError: there is no C++ compiler, or on a GPU no header of Python's.
    """
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise UserError("compile needs a C++ compiler (g++ or clang++); install one, or leave it false")
    on_gpu = next(network.parameters()).device.type == "cuda"
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    if on_gpu and not header.is_file():  # Triton compiles C that calls Python
        raise UserError(f"compile on a GPU needs {header}; install Python's headers (python3-dev), or leave it false")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, PROGRAMS)
    # Or kernels would be chosen by timing them, and a run that goes on elsewhere could end in other bits.
    torch._inductor.config.deterministic = True
    network.compile(dynamic=False, mode="reduce-overhead" if graphs and on_gpu else "default")
