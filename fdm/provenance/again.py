"""What would make a recorded run again: its identities by the code that is here, and the commands."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fdm.data import Store
from fdm.errors import UserError
from fdm.experiment import Experiment, experiment_from_dict, load_experiment, load_suite
from fdm.report.results import settings_of
from fdm.runs import Run


@dataclass(frozen=True)
class RecordedRun(Run):
    """A run as its manifest describes it; its data need not be here, their recorded digest stands for them."""

    recorded: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def data(self) -> Store:
        """The recorded manifest of the data."""
        return Store(Path("data", self.experiment.dataset.name), dict(self.recorded), str(self.recorded["digest"]))

    @property
    def identities(self) -> dict[str, str]:
        """Of every step, by the code that is here."""
        pretrained = {"pretrain": self.autoencoder.identity} if self.autoencoder else {}
        return pretrained | {
            "train": self.train_identity,
            "sample": self.sample_identity,
            "evaluate": self.evaluate_identity,
        }


def recorded_run(manifest: Mapping[str, Any], where: str) -> RecordedRun:
    """The run that a manifest describes.

    Raises:
        UserError: this version does not know one of its settings, or they do not fit together.
    """
    experiment = experiment_from_dict(manifest["experiment"], where)
    return RecordedRun(experiment, int(manifest["seed"]), "cpu", recorded=manifest["data"])


def same_now(manifest: Mapping[str, Any], where: str) -> tuple[bool, str]:
    """Whether this code makes the same run of the recorded settings, data and seed; and a sentence about it."""
    try:
        now = recorded_run(manifest, where).identities
    except UserError as error:
        return False, f"this version cannot make it again: {error}"
    other = [step for step, found in now.items() if manifest["identities"].get(step) != found]
    if not other:
        return True, "this code makes the same run of these settings, data and seed"
    then, here = manifest.get("sources", {}), recorded_run(manifest, where).sources
    changed = [step for step in other if then.get(step) != here[step]]
    cause = (
        f"code of {', '.join(changed)} differs" if changed else "settings have new keys, or a step before it differs"
    )
    return False, f"this code would make another run, from {other[0]} on ({cause}); check out its revision to repeat it"


def commands(suite: str, name: str, manifest: Mapping[str, Any]) -> list[str]:
    """Shell commands that make a run again in ``results/``, each step by its own code revision.

    Overrides are what the suite lacks as it was at that revision; where git does not have that, as it is here, and a comment says so.
    """
    lines: list[str] = []
    here: str | None = None
    rest = ["--seed", str(manifest["seed"]), "--to", f"results/{suite}/{name}/seed{manifest['seed']}"]
    for step in ("pretrain", "train", "sample", "evaluate"):
        if step not in manifest["identities"]:
            continue
        made = manifest["records"].get(step, {}).get("provenance") or {}
        revision = str(made.get("revision") or "").partition("+")[0]
        if revision != here:
            first, here = here is None, revision
            lines += [f"git checkout {revision}"] if revision else []
            with params_of(revision) as known:
                found = _described(suite, name, manifest["experiment"])
            if found is None:
                return [
                    *lines,
                    f"# params/suites/{suite}.yaml does not describe this run {'there' if known else 'here'}",
                ]
            reference, changes = found
            if revision and not known:
                lines.append(f"# git has no {revision[:12]} here; -o as params/suites/{suite}.yaml is now")
            words = [word for change in changes for word in ("-o", change)]
            if first:
                data = [word for change in changes if change.startswith("dataset.") for word in ("-o", change)]
                lines.append(shlex.join(["fdm", "data", str(manifest["data"]["name"]), *data]))
        lines.append(shlex.join(["fdm", step, reference, *words, *rest]))
    return lines


@contextmanager
def params_of(revision: str) -> Iterator[bool]:
    """Work in a folder whose ``params`` are those of a git revision; yields False, and stays here, where git does not have them."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asked = subprocess.run(["git", "archive", revision, "params"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            yield False
            return
        with tarfile.open(fileobj=io.BytesIO(asked.stdout)) as archive:
            for member in archive:  # of one's own repository; git has no names that lead out
                if file := archive.extractfile(member):
                    path = Path(folder, member.name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(file.read())
        with chdir(folder):
            yield True


def _described(suite: str, name: str, recorded: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """``SUITE:EXPERIMENT`` and its overrides; where the suite lacks the experiment, another of it that needs the fewest."""
    try:
        names = list(load_suite(suite).experiments)
    except UserError:
        names = [name]
    ways = [
        (reference, changes)
        for reference in (f"{suite}:{other}" for other in ([name] if name in names else names))
        if (changes := overrides(reference, recorded)) is not None
    ]
    return min(ways, key=lambda way: len(way[1]), default=None)


def overrides(reference: str, recorded: Mapping[str, Any]) -> list[str] | None:
    """``key=value`` changes that turn the suite's experiment into the ``recorded`` one; None if no changes do."""

    def settings(experiment: Experiment) -> dict[str, Any]:
        return settings_of(experiment.model_dump(mode="json"))

    try:
        # Validated, so that keys younger than the record stand at their defaults on both sides.
        wanted = settings(experiment_from_dict(recorded, reference))
        found = list(_changes(settings(load_experiment(reference)), wanted))
        there = settings(load_experiment(reference, found))
    except UserError:
        return None
    return found if there == wanted else None


def _changes(here: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(here.get(key), Mapping):
            yield from _changes(here[key], value, f"{prefix}{key}.")
        elif key not in here or here[key] != value:
            yield f"{prefix}{key}={json.dumps(value)}"
