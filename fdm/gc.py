"""`fdm gc`: runs of the store that no result refers to.

A result refers to every run whose identity stands anywhere in one of its JSON files, and a run to those whose identity stands in
one of its own (its record, and ``needs.json``, which is there from its start). What can be reached in this way stays: the training
and the autoencoder behind samples as much as the samples. Nothing else in the store is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fdm.errors import UserError
from fdm.experiment import PARAMS, load_suite
from fdm.store import files_in, is_held, root

RUN = re.compile(r"([a-z-]+)-([0-9a-f]{16})")
IDENTITY = re.compile(r"\b[0-9a-f]{16}\b")
TRASH = ".removed-"
"""What is removed first gets this before its name, in one step: no run is ever left with a part of its files."""
DRIVER = Path(".snakemake/driver.lock")
"""Snakemake holds it while it is at work in this folder (workflow/rules/driver.smk)."""


@dataclass(frozen=True)
class StoredRun:
    """A folder of the run store.

    Attributes:
        finished: its record is there.
        size: of its files, bytes.
        changed: when its youngest file was written, seconds since 1970.
    """

    folder: Path
    kind: str
    identity: str
    finished: bool
    size: int
    changed: float


@dataclass(frozen=True)
class Survey:
    """The runs of a store, by what is to become of them: each run is in one of the four.

    Attributes:
        referred: a result refers to them, or a run that stays.
        busy: a process is at work on them.
        young: changed within the time asked for, finished or not.
        removable: all others.
    """

    referred: tuple[StoredRun, ...]
    busy: tuple[StoredRun, ...]
    young: tuple[StoredRun, ...]
    removable: tuple[StoredRun, ...]


def collect(results: Sequence[Path], days: float, dropped: bool, delete: bool) -> Iterator[str]:
    """List what can go, and remove it where that is asked for; yields lines to print.

    Args:
        dropped: also results that their suite no longer names.

    The other arguments and the errors are those of ``survey`` and ``remove``.
    """
    # Results that Snakemake exports between the survey and the removal would come too late.
    with undisturbed() if delete else contextlib.nullcontext():
        stale = [path for folder in results for path in dropped_results(folder)] if dropped else []
        found = survey(results, days, stale)
        folders = [*stale, *(run.folder for run in found.removable)]
        size = sum(map(size_of, folders))
        for path in stale:
            yield f"{_size(size_of(path)):>12}  {path}: no longer in its suite"
        names = names_of([*found.referred, *found.busy, *found.young, *found.removable])
        for run in found.removable:
            state, day = "finished" if run.finished else "unfinished", datetime.fromtimestamp(run.changed)
            age = (time.time() - run.changed) / 86400
            whose = names.get(run.identity, "unknown experiment")
            yield f"{_size(run.size):>12}  {run.folder}: {whose}, {state}, {day:%Y-%m-%d} ({age:.0f} days ago)"
        if delete:
            remove(folders)
    said = "removed" if delete else "can go (`--delete` removes them)" if folders else "can go"
    results_too = f"{len(stale)} results and " if dropped else ""
    yield f"{results_too}{len(found.removable)} runs, {_size(size)}: {said}"
    if found.removable:
        yield (
            f"why: no file in {', '.join(map(str, results))} names them, and no run that stays needs them: made without --to, or "
            f"for settings or code that have changed since"
        )
    yield (
        f"{len(found.referred)} runs, {_size(sum(run.size for run in found.referred))}: results need them; {len(found.busy)} are at "
        f"work; {len(found.young)} changed within {days:g} days"
    )


def survey(results: Sequence[Path], days: float, without: Iterable[Path] = ()) -> Survey:
    """What of the run store stays, and what may go; changes nothing.

    Args:
        results: folders whose JSON files refer to runs, at any depth.
        days: runs that have changed within so many days stay: who makes one by hand, without --to, may still want it.
        without: folders in ``results`` that do not count.

    Raises:
        UserError: there are no results, or a file cannot be read, so that what it refers to is not known.
    """
    runs = stored_runs()
    named = referred_to(results, {run.kind for run in runs}, tuple(without))
    since = time.time() - days * 86400
    referred = {run for run in runs if run.identity in named}
    busy = {run for run in runs if run not in referred and is_held(run.folder)}
    young = {run for run in runs if run not in referred | busy and run.changed > since}
    referred |= _behind(referred | busy | young, runs) - busy - young

    def those(chosen: Iterable[StoredRun]) -> tuple[StoredRun, ...]:
        return tuple(sorted(chosen, key=lambda run: run.folder.name))

    return Survey(those(referred), those(busy), those(young), those(set(runs) - referred - busy - young))


def stored_runs() -> list[StoredRun]:
    """Every run in the store; other folders of it (cached features) are none.

    Raises:
        UserError: the store cannot be read.
    """
    if not root().is_dir():
        return []
    found = []
    try:
        for folder in root().iterdir():
            name = RUN.fullmatch(folder.name)
            if name and folder.is_dir() and not folder.is_symlink():
                files = list(files_in(folder))
                # Whoever asks for a lock renews the time of its file: that is no work on the run.
                times = [state.st_mtime for path, state in files if path.suffix != ".lock" and path.name != ".lock"]
                changed = max(times, default=folder.stat().st_mtime)
                size = sum(state.st_size for _, state in files)
                finished = (folder / f"{name[1]}.json").is_file()
                found.append(StoredRun(folder, name[1], name[2], finished, size, changed))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read the run store: {error.strerror}") from None
    return found


def names_of(runs: Iterable[StoredRun]) -> dict[str, str]:
    """By identity, whose runs these are, as far as their files say: ``ddpm seed 0 on digits32``.

    A training says it in ``about.json``, the manifest of an evaluation for all that it is made of; other runs go by what they need.
    """
    named: dict[str, str] = {}
    behind: dict[str, str] = {}
    for run in runs:
        about, manifest = _content(run, "about"), _content(run, "manifest")
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            named[run.identity] = f"{about['experiment']} seed {about['seed']} on {about['dataset']}"
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            experiment = manifest["experiment"]
            name = f"{experiment['name']} seed {manifest['seed']} on {experiment['dataset']['name']}"
            named = {**dict.fromkeys(manifest["identities"].values(), name), **named}
        with contextlib.suppress(KeyError, TypeError, IndexError):
            behind[run.identity] = _content(run, "needs")[0]
        with contextlib.suppress(KeyError, TypeError):
            behind[run.identity] = _content(run, run.kind)["train"]  # of a restoration, and the like
    for _ in range(2):  # evaluation, samples, training: no chain is longer
        named = {**{run: named[other] for run, other in behind.items() if other in named}, **named}
    return named


def referred_to(results: Sequence[Path], kinds: set[str], without: Sequence[Path] = ()) -> set[str]:
    """Identities in the JSON files of ``results``.

    Args:
        kinds: steps of which there are runs; their records, and manifests, must name an identity.
        without: folders that do not count.

    Raises:
        UserError: a folder names none, or a file cannot be read, or names none though it should.
    """
    named: set[str] = set()
    for folder in results if kinds else ():
        before = len(named)
        for path in _json_files(folder):
            if not any(path.is_relative_to(other) for other in without):
                found = _identities(path)
                if not found and path.stem in {*kinds, "manifest"}:
                    raise _unknown(path, "names no run")
                named |= found
        if len(named) == before:
            raise UserError(
                f"{folder}: no results that refer to a run, so every run could go; make them first (`snakemake`), or pull "
                f"them from a remote that has them (`dvc pull`), or delete {root()} yourself"
            )
    return named


def dropped_results(results: Path) -> list[Path]:
    """Folders ``<suite>/<experiment>[/seed<k>]`` of ``results`` that their suite no longer names.

    Results of a suite without a file in ``params/suites`` are none of them.

    Raises:
        UserError: a suite cannot be read.
    """
    found: list[Path] = []
    for folder in sorted(path for path in results.glob("*") if (PARAMS / "suites" / f"{path.name}.yaml").is_file()):
        suite = load_suite(folder.name)
        for experiment in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
            if experiment.name not in suite.experiments:
                found.append(experiment)
            else:
                wanted = {f"seed{seed}" for seed in suite.seeds[experiment.name]}
                seeds = sorted(path for path in experiment.iterdir() if path.name.startswith(("seed", TRASH)))
                found += [path for path in seeds if path.name not in wanted]
    return found


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Snakemake from starting in this folder: between two of its jobs a finished run may not be in the results yet.

    Raises:
        UserError: it is at work.
    """
    lock = FileLock(DRIVER)
    try:
        DRIVER.parent.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("snakemake is at work in this folder; wait for it or end it, then remove runs") from None
    except OSError as error:
        raise UserError(f"{DRIVER}: cannot lock: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def remove(folders: Iterable[Path]) -> None:
    """Remove folders, each out of sight first and in one step, but none that a process has come to hold meanwhile.

    What an earlier call that was killed has left in the store goes too.

    Raises:
        UserError: one cannot be removed.
    """
    try:
        for left in root().glob(f"{TRASH}*"):
            shutil.rmtree(left)
        for folder in folders:
            if not is_held(folder):
                hidden = folder.with_name(f"{TRASH}{folder.name}")
                os.replace(folder, hidden)
                shutil.rmtree(hidden)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot remove: {error.strerror}") from None


def _content(run: StoredRun, name: str) -> Any:
    """Of a JSON file of a run; None where it is missing or broken."""
    try:
        return json.loads((run.folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(state.st_size for _, state in files_in(folder))


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _behind(kept: Iterable[StoredRun], runs: Sequence[StoredRun]) -> set[StoredRun]:
    """All that ``kept`` need, directly or not, with ``kept``."""
    by_identity: dict[str, list[StoredRun]] = {}
    for run in runs:
        by_identity.setdefault(run.identity, []).append(run)
    found, waiting = set(kept), list(kept)
    while waiting:
        for path in _json_files(waiting.pop().folder):
            new = {run for name in _identities(path) for run in by_identity.get(name, ())} - found
            found |= new
            waiting += new
    return found


def _json_files(folder: Path) -> Iterator[Path]:
    """JSON files at any depth, through links as well.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise _unknown(Path(error.filename), f"cannot be read ({error.strerror})")

    if folder.is_dir():
        for place, _, names in os.walk(folder, onerror=refuse, followlinks=True):
            yield from (Path(place, name) for name in sorted(names) if name.endswith(".json"))


def _identities(path: Path) -> set[str]:
    """Every identity in a JSON file, wherever it stands.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _unknown(path, f"cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})") from None
    return set(IDENTITY.findall(text))


def _unknown(path: Path, what: str) -> UserError:
    return UserError(
        f"{path}: {what}, so which runs it needs is not known, and nothing is removed; make it again, or delete {path.parent}"
    )
