"""The command line: verbs by what they are for; thin, the work is elsewhere."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from fdm import __version__
from fdm.allocator import keep_freed_memory
from fdm.cli import conditional, inspection, pipeline, results
from fdm.cli.base import say
from fdm.errors import Elsewhere, Interrupted, UserError
from fdm.launch import end_by, end_with_launcher
from fdm.slurm import requeue

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Multi-stage diffusion models: train, sample, score, prove, report. EXPERIMENT is SUITE:NAME, for example "
    "[bold]digits:ddpm[/], or a file that `fdm show --yaml` wrote.",
)

VERBS = {
    "Pipeline": (pipeline.data, pipeline.pretrain, pipeline.train, pipeline.sample, pipeline.evaluate),
    "Conditional use of a trained model": (conditional.restore, conditional.vary, conditional.interpolate),
    "Proof, cost and speed": (inspection.verify, inspection.show, inspection.benchmark),
    "Results": (results.report, results.trace, results.publish, results.check, results.gc),
}
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)


def _version(asked: bool) -> None:
    if asked:
        print(f"fdm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    pass


LONGEST = 2000
"""Characters of an error that are shown: a value that it repeats may be a whole file."""


def _one_line(text: str) -> str:
    """``text`` as one line that cannot steer a terminal, whatever names and values it repeats."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def main() -> None:
    """Entry point: one clear line and status 1 for everything a user can mend; what SIGINT or SIGTERM stops ends of it."""
    keep_freed_memory()
    end_with_launcher()
    try:
        app()
    except UserError as error:
        if not isinstance(error, Elsewhere):
            say(f"error: {_one_line(str(error))}")
        if isinstance(error, Interrupted):
            if error.signal != signal.SIGUSR1:
                end_by(error.signal)
            requeue()
        sys.exit(error.status)
    except SystemExit as end:
        if end.code == 128 + signal.SIGINT:  # what Typer makes of Ctrl-C
            if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes of a training, one speaks
                say("stopped by SIGINT; what is finished is kept, the same command goes on from there")
            end_by(signal.SIGINT)
        raise
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, and not every command has loaded torch
            raise
        what = _one_line(str(error).partition(" GPU ")[0]).rstrip(".")
        say(
            f"error: GPU: {what}; it needs less with a larger training.accumulate (fdm train), with sampling.micro_batch or a smaller "
            f"sampling.batch (fdm sample)"
        )
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        say(f"error: {_one_line(str(error.filename))[:100]}…: the name is too long for a file")
        sys.exit(1)
