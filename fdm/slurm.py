"""Under SLURM: a job that was warned of its end, and has saved its state, puts itself back into the queue."""

from __future__ import annotations

import os
import subprocess
import sys


def requeue() -> bool:
    """Requeue the SLURM job around this process; SLURM then ends it, and starts it anew when there is room.

    SLURM requeues what it preempts by itself, but not what its time limit stops. Its warning (``sbatch --signal=USR1@120``) comes
    before either.

    Returns:
        Whether there was such a job, and SLURM agreed.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return False
    if "SLURM_ARRAY_TASK_ID" in os.environ:  # the number of the last task is that of the whole array
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    # Said before it is asked: SLURM ends the job, and whoever writes its log, as soon as it agrees.
    print(f"SLURM job {job}: asks to go back to the queue", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        refused = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused:
        print(f"SLURM job {job}: cannot be requeued: {refused}", file=sys.stderr, flush=True)
    return not refused
