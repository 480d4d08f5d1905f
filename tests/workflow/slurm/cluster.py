"""A real SLURM of one node, for tests and for trying the profile out: own keys, ports and folder, stopped by its process ids.

    python tests/workflow/slurm/cluster.py    # a shell in which sbatch, squeue and the profile work
    python tests/workflow/slurm/cluster.py snakemake --profile workflow/profiles/slurm --profile tests/workflow/slurm --config suite=smoke

It needs the daemons only (Debian: ``apt-get install slurm-wlm munge``), not root, and touches nothing outside its folder. No
accounting, no cgroups: limits of time and places are kept, those of memory are not enforced.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")
SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on the path of everybody
CONFIGURATION = """\
ClusterName=fdm
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credential has run out: 2 minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=600
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
"""


def missing_programs() -> list[str]:
    """What has to be installed first."""
    return [name for name in PROGRAMS if _find(name) is None]


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM)))


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        folder: configuration, state and logs.
    """

    folder: Path

    def environment(self, other: Mapping[str, str] = os.environ) -> dict[str, str]:
        """``other``, with what SLURM's commands need."""
        path = f"{self.folder / 'bin'}{os.pathsep}{other['PATH']}"
        return {**other, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def run(self, *command: str) -> str:
        """Run one of SLURM's commands; what it said."""
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()


@contextmanager
def one_node(folder: Path, cpus: int = 4) -> Iterator[Cluster]:
    """Start a cluster in an empty ``folder`` (a short path: sockets are in it), stop it at the end.

    Partitions: ``main``, and ``urgent``, whose jobs preempt those of ``main``.

    Args:
        cpus: places, whatever the machine has.

    Raises:
        RuntimeError: a daemon ended or the node was not ready in time; its log is in the message.
    """
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    # Snakemake's executor starts `srun` without SLURM_CONF, because on a cluster the file is in /etc/slurm.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_find("srun")} "$@"\n')
    srun.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    folder.chmod(0o755)
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    controller_port, node_port = _free_ports()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            user=_user(),
            folder=folder,
            cpus=cpus,
            memory_mb=pages * size // 2**20,
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    cluster = Cluster(folder)
    with ExitStack() as stack:
        daemons = []
        for name, *arguments in (
            (
                "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log",
            ),
            ("slurmctld", "-D", "-i"),
            ("slurmd", "-D"),
        ):  # fmt: skip
            daemons.append(stack.enter_context(_daemon(cluster, name, *arguments)))
            if name == "munged":
                _wait(daemons, lambda: (folder / "munge.socket").exists())
        _wait(daemons, lambda: "idle" in cluster.run("sinfo", "--noheader", "--partition", "main", "--format", "%T"))
        yield cluster
        cluster.run("scancel", "--quiet", "--user", _user())  # so that no job outlives it
        _wait(daemons, lambda: not cluster.run("squeue", "--noheader"))


@contextmanager
def _daemon(cluster: Cluster, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    program = _find(name)
    assert program is not None, f"{name} is not installed"
    with open(cluster.folder / f"{name}.out", "wb") as said:
        process = subprocess.Popen(
            [program, *arguments],
            env=cluster.environment(),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(daemons: list[subprocess.Popen[bytes]], ready: Callable[[], bool], seconds: float = 60) -> None:
    """Until ``ready()``, while all ``daemons`` live."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        for daemon in daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args} ended with status {daemon.returncode}")
        try:
            if ready():
                return
        except RuntimeError as error:
            last = str(error)
        time.sleep(0.1)
    raise RuntimeError(f"SLURM is not ready after {seconds:g} s: {last}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def main() -> int:
    """Start a cluster, run a command or a shell in it."""
    if missing := missing_programs():
        print(f"error: {', '.join(missing)} not found; on Debian: apt-get install slurm-wlm munge", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons end, too
    command = sys.argv[1:] or [os.environ.get("SHELL", "/bin/sh")]
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, one_node(Path(folder)) as cluster:
        print(f"one-node SLURM: SLURM_CONF={folder}/slurm.conf; it ends with this command", file=sys.stderr, flush=True)
        return subprocess.run(command, env=cluster.environment()).returncode


if __name__ == "__main__":
    sys.exit(main())
