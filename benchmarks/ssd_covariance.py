"""Exact sampling of the posterior noise of Scale Space Diffusion against 40 Lanczos iterations per image.

A raising step draws N(0, I - kappa M^T M). The package colours white noise with two matrix products, or for box averaging
with one pooling and its adjoint (``Separable.spread``). The published method approximates the same square root, image by image,
in a Krylov space of 40 dimensions; that is written here plainly, with the package's own M. All are timed alternately on the same
noise, and the covariances that they have are compared with the true one.

Box averaging has two distinct eigenvalues only, so that its Krylov space is exhausted after two iterations. "40" goes on all the
same, as a fixed number of iterations does; "stopping" ends there, which the published method does not, and is the fairest
opponent that Lanczos can be.

    python -m benchmarks.ssd_covariance [--repeats 7] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fdm.operators import Separable
from fdm.processes.levels import down_sampling

BATCH, CHANNELS, ITERATIONS = 16, 3, 40
KAPPA = 0.98
"""c^2 sigma_s^2 / sigma_t^2: near 1, as in any step that is not very long."""
PROBES = 64


def lanczos_root(matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int, stop: bool) -> Tensor:
    """A^{1/2} b for symmetric positive definite A: ||b|| Q T^{1/2} e_1 of the Krylov space, with full reorthogonalisation.

    Where the space is exhausted, it goes on in a random direction with beta = 0: a block of T that is not coupled to the first
    and leaves the result as it is.

    Args:
        matvec: A, on tensors of the shape of ``b``.
        b: one image, any shape.
        stop: end where the space is exhausted.
    """
    norm = torch.linalg.vector_norm(b)
    basis = b.new_empty(iterations, b.numel())
    basis[0] = b.flatten() / norm
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    for step in range(iterations):
        known = basis[: step + 1]
        w = matvec(basis[step].view_as(b)).flatten()
        diagonal.append(w @ basis[step])
        for _ in range(2):  # twice is enough to keep the basis orthogonal
            w = w - (known @ w) @ known
        beta = torch.linalg.vector_norm(w)
        exhausted = float(beta) < 1e-5
        if step + 1 == iterations or (stop and exhausted):
            break
        if exhausted:
            beta, w = torch.zeros_like(beta), torch.randn_like(w)
            for _ in range(2):
                w = w - (known @ w) @ known
        off.append(beta)
        basis[step + 1] = w / torch.linalg.vector_norm(w)
    tridiagonal = torch.diag(torch.stack(diagonal))
    if off:
        beside = torch.stack(off)
        tridiagonal = tridiagonal + torch.diag(beside, 1) + torch.diag(beside, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    root = vectors @ (values.clamp_min(0).sqrt() * vectors[0])
    return (norm * (root @ basis[: len(root)])).view_as(b)


def exact(down: Separable, noise: Tensor) -> Tensor:
    """(B, C, n, n) of covariance I - KAPPA M^T M, as the package draws it."""
    return down.spread(lambda v: (1 - KAPPA * v).clamp_min(0).sqrt(), noise)


def lanczos(down: Separable, noise: Tensor, stop: bool = False) -> Tensor:
    """The same, image after image."""

    def matvec(x: Tensor) -> Tensor:
        return x - KAPPA * down.adjoint(down.apply(x))

    return torch.stack([lanczos_root(matvec, image, ITERATIONS, stop) for image in noise])


def agreement(down: Separable, side: int) -> tuple[float, float]:
    """Largest error of <p, Sigma p> over unit probes p, of the exact sampler and of Lanczos; Sigma = I - KAPPA M^T M.

    A linear sampler x = R w has <p, Sigma p> = ||R^T p||^2. For the exact one R^T p comes from automatic differentiation of
    <R w, p>; Lanczos approximates the symmetric root, which is its own transpose.
    """
    generator = torch.Generator().manual_seed(1)
    probes = torch.randn(PROBES, 1, side, side, generator=generator, dtype=torch.float64)
    # Half of them smooth, because M keeps those directions: the root differs from 1 there only.
    probes[: PROBES // 2] = probes[: PROBES // 2].cumsum(-1).cumsum(-2)
    probes = probes / probes.flatten(1).norm(dim=1)[:, None, None, None]
    noise = torch.zeros_like(probes, requires_grad=True)
    (transposed,) = torch.autograd.grad((exact(down, noise) * probes).sum(), noise)

    def energy(x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1)

    wanted = energy(probes) - KAPPA * energy(down.apply(probes))
    errors = [float((energy(x) - wanted).abs().max()) for x in (transposed, lanczos(down, probes))]
    return errors[0], errors[1]


def timed(call: Callable[[], Tensor], device: str) -> float:
    """Seconds of one call: of the processor on a CPU, where other programs may run beside; of the clock on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def compare(coarse: int, fine: int, operator: str, repeats: int, device: str) -> dict[str, float]:
    """Print two lines; returns the ratios of the median times to that of the exact sampler."""
    down = down_sampling(operator, fine, coarse)  # type: ignore[arg-type]
    errors = agreement(down, fine)
    noise = torch.randn(BATCH, CHANNELS, fine, fine, generator=torch.Generator().manual_seed(0)).to(device)
    exact(down, noise), lanczos(down, noise[:1])  # caches and allocator
    ways: dict[str, Callable[[], Tensor]] = {
        "exact": lambda: exact(down, noise),
        f"Lanczos {ITERATIONS}": lambda: lanczos(down, noise),
        "Lanczos stopping": lambda: lanczos(down, noise, stop=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds[name].append(timed(way, device))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: medians[name] / medians["exact"] for name in ways if name != "exact"}
    spread = " · ".join(
        f"{name} {medians[name] * 1e3:.2f} ms ({min(times) * 1e3:.2f} – {max(times) * 1e3:.2f})"
        + (f", ratio {ratios[name]:.1f}" if name in ratios else "")
        for name, times in seconds.items()
    )
    print(f"{coarse}→{fine} {operator}: {spread}", flush=True)
    print(f"    error of the covariance: exact {errors[0]:.1e}, Lanczos {ITERATIONS} {errors[1]:.1e}", flush=True)
    return ratios


def main() -> None:
    """Both sizes, both operators; medians with their range over alternating repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"batch {BATCH}, {CHANNELS} channels, {ITERATIONS} Lanczos iterations, float32, {arguments.threads} threads")
    for operator in ("bilinear", "box"):
        for coarse, fine in ((32, 64), (128, 256)):
            compare(coarse, fine, operator, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
