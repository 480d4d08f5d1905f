"""The command line in this process: no second to start Python and import torch, and a traceback stays one."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass
from unittest import mock

from fdm import cli


@dataclass(frozen=True)
class Outcome:
    """What a command ended with and said."""

    status: int
    stdout: str
    stderr: str

    @property
    def refused(self) -> bool:
        """Whether it failed; then it must have said why in one line, which comes last, and warned of nothing else."""
        if self.status == 0:
            return False
        last = self.stderr.rstrip("\n").splitlines()[-1]
        assert self.stderr.count("error: ") and last.startswith("error: "), self.stderr
        assert len(last) < 2200 and last.isprintable() and len(last.split(": ", 2)) == 3, last
        assert "Traceback" not in self.stdout + self.stderr and "Warning" not in self.stderr, self.stderr
        return True


def attempt(*words: str) -> Outcome:
    """``fdm WORDS`` in this process, from ``sys.argv`` to the exit status. What is not an exit is a traceback, and fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fdm", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "The `srun` command")  # Fabric's advice wherever SLURM is installed
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    remarks = "".join(f"{warning.category.__name__}: {warning.message}\n" for warning in warned)
    return Outcome(status, out.getvalue(), remarks + err.getvalue())
