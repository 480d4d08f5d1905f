"""The processes of a training on several devices, one for each: who starts them, and how they end together.

``torchrun`` and ``srun`` start the processes themselves. Otherwise this process starts them on its machine, hands signals on, and ends
all of them when one dies. Lightning's own launcher is not used for that: it kills the training process, without a word, when another
one ends, and leaves the others alone when the training process fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fdm.errors import Elsewhere, UserError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

LAUNCHER = "FDM_LAUNCHER"
"""The launching process's number, in the environment of those that it starts."""
GRACE_SECONDS = 15.0
"""After one process has failed, the others have so long to end by themselves."""
HEARING_SECONDS = 10.0
"""Rank zero has so long to name an error that all processes meet before they are connected."""
_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


@dataclass(frozen=True)
class Layout:
    """The processes of one training.

    Attributes:
        devices: on each node.
        nodes: machines.
        rank: of this process among all.
        started: whether this process is one of them; else it has to start them.
    """

    devices: int = 1
    nodes: int = 1
    rank: int = 0
    started: bool = True

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @contextlib.contextmanager
    def one_voice(self) -> Iterator[None]:
        """Leave it to rank zero to name an error that every process meets: one that comes before they are connected."""
        try:
            yield
        except UserError as error:
            if self.rank:
                time.sleep(HEARING_SECONDS)  # torchrun ends all of them with the first
                raise Elsewhere(str(error)) from error
            raise


ALONE = Layout()
"""One process."""


def layout(devices: int | None = None, nodes: int | None = None) -> Layout:
    """What ``torchrun`` or ``srun`` has started, or what the user asks for.

    Args:
        devices, nodes: asked for; None for what has been started, or one.

    Raises:
        UserError: what has been started is something else, or does not say where its first node is.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return _agreeing("torchrun", devices, nodes, int(env["WORLD_SIZE"]), int(env["GROUP_WORLD_SIZE"]), env["RANK"])
    # Of the step, which srun starts: in a batch script itself there is one process, however many tasks the job has.
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1:
        return _agreeing("srun", devices, nodes, tasks, int(env["SLURM_STEP_NUM_NODES"]), env["SLURM_PROCID"])
    devices, nodes = devices or 1, nodes or 1
    if devices * nodes == 1:
        return ALONE
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in env]
    if nodes > 1 and absent:
        raise UserError(
            f"--num-nodes {nodes}: start the command with torchrun or srun, or on every node with {', '.join(absent)} set"
        )
    node = int(env["NODE_RANK"]) if nodes > 1 else 0
    return Layout(devices, nodes, node * devices + int(env.get("LOCAL_RANK", "0")), "LOCAL_RANK" in env)


def _agreeing(by: str, devices: int | None, nodes: int | None, world: int, found_nodes: int, rank: str) -> Layout:
    if world % found_nodes:
        raise UserError(f"{by} has started {world} processes on {found_nodes} nodes; each node needs the same number")
    found = Layout(world // found_nodes, found_nodes, int(rank))
    for option, asked, there in (("--devices", devices, found.devices), ("--num-nodes", nodes, found.nodes)):
        if asked not in (None, there):
            where = "processes on each node" if option == "--devices" else "nodes"
            raise UserError(
                f"{option} {asked}: {by} has started {there} {where}; leave the option out or make it {there}"
            )
    return found


def check_devices(device: torch.device, layout: Layout) -> None:
    """Raise UserError where this machine has fewer GPUs than ``layout`` wants."""
    import torch

    if device.type == "cuda" and layout.devices > torch.cuda.device_count():
        raise UserError(f"--devices {layout.devices}: torch finds {torch.cuda.device_count()} GPUs on this machine")


def connect(layout: Layout, device: torch.device) -> Fabric:
    """Connect the processes of ``layout``, each on a device of its own.

    Args:
        device: "cpu" or "cuda".

    Raises:
        UserError: there are not so many devices, or the processes cannot reach each other.
    """
    # The import time of torch and Lightning, which a finished run need not pay.
    import torch
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # Named, not found out: with SLURM installed, Lightning takes a job of several tasks for several processes of this training.
    own = LightningEnvironment()
    if layout.world == 1:
        return Fabric(accelerator=device.type, devices=1, plugins=[own])
    check_devices(device, layout)
    # Lightning makes DDP on a stream of its own, of which newer versions of torch warn; they wait for each other all the same.
    if device.type == "cuda" and hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    # A step of one stage leaves parameters of others unused. Where none are, looking for them still keeps the order in which
    # gradients are added up, which would else change after the first step, and be another after a run is resumed.
    strategy = DDPStrategy(find_unused_parameters=True)
    try:
        environment: ClusterEnvironment = own
        if TorchElasticEnvironment.detect():
            environment = TorchElasticEnvironment()
        elif "LOCAL_RANK" not in os.environ:
            environment = SLURMEnvironment()
        fabric = Fabric(
            accelerator=device.type,
            devices=layout.devices,
            num_nodes=layout.nodes,
            strategy=strategy,
            plugins=[environment],
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"process {layout.rank} of {layout.world}: {first_line(error)}") from None
    return fabric


def launch(several: Layout) -> int:
    """Run this command once for each device of this machine and wait; returns the exit status for all of them.

    SIGTERM, SIGINT and SIGUSR1 are handed on; after the first two this process ends of the same signal.
    """
    first = (
        {} if several.nodes > 1 else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    )
    environment = {**os.environ, **first, LAUNCHER: str(os.getpid())}
    words = [sys.executable, *sys.orig_argv[1:]]
    # Each in a group of its own: a Ctrl-C would reach it twice otherwise, from the terminal and from here. Before signals are handed on:
    # a process is started with those ignored that are ignored here.
    processes = [
        subprocess.Popen(words, env={**environment, "LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL, process_group=0)
        for rank in range(several.devices)
    ]
    with _handed_on(processes) as signals:
        statuses = _wait(processes)
    killed = next((k for k, status in enumerate(statuses) if status < 0), None)
    kept = "the state that was saved last is kept, the same command goes on from there"
    if killed is not None:
        name = signal.Signals(-statuses[killed]).name
        print(f"error: process {killed + 1} of {several.devices} was ended by {name}; {kept}", file=sys.stderr)
    elif any(statuses) and set(statuses) <= {0, Elsewhere.status}:
        print(f"error: the {several.world} processes have lost contact; {kept}", file=sys.stderr)
    if not any(statuses):
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        if number in signals or 128 + number in statuses:
            end_by(number)
    return 1


def end_by(number: int) -> NoReturn:
    """End this process of a signal that it has caught, once all is saved: a shell's loop over runs then ends, too.

    Under ``launch``, which does so itself when all have ended, and where the signal cannot end it: with status 128 + ``number``.
    """
    if LAUNCHER not in os.environ:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    sys.exit(128 + number)


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit statuses once all have ended; what still runs ``GRACE_SECONDS`` after one has failed is killed (and then is a 1)."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    left = [process for process in processes if process.poll() is None]
    for process in left:
        process.kill()
    return [1 if process.wait() and process in left else process.returncode for process in processes]


@contextlib.contextmanager
def _handed_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Hand signals on to ``processes``; yields the list of those that have come."""
    come: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        come.append(number)
        for process in processes:
            process.send_signal(number)

    old = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield come
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def end_with_launcher() -> None:
    """In a process that ``launch`` started: save and stop (SIGTERM) when the launching process is killed. Linux only."""
    if LAUNCHER in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(os.environ[LAUNCHER]):
            sys.exit("error: the process that started this one has ended")


def first_line(error: Exception) -> str:
    """Of its message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
