"""What would make a recorded run again: its identities by the code that is here, and the commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fdm.data import Store
from fdm.errors import UserError
from fdm.experiment import Experiment, experiment_from_dict, load_experiment
from fdm.report.results import settings_of
from fdm.runs import Run


@dataclass(frozen=True)
class RecordedRun(Run):
    """A run as its manifest describes it; its data need not be here, their recorded digest stands for them."""

    recorded: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def data(self) -> Store:
        """The recorded manifest of the data."""
        return Store(self.data_root / self.experiment.dataset.name, dict(self.recorded), str(self.recorded["digest"]))

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
    """Shell commands that make a run again in ``results/``, from its code revision on."""
    lines = []
    revision = str(manifest["records"]["train"].get("provenance", {}).get("revision") or "")
    if revision:
        lines.append(f"git checkout {revision.partition('+')[0]}")
    changes = overrides(f"{suite}:{name}", manifest["experiment"])
    if changes is None:
        return [*lines, f"# params/suites/{suite}.yaml does not describe this run here; its revision's does"]
    words = [word for change in changes for word in ("-o", change)]
    data = [word for change in changes if change.startswith("dataset.") for word in ("-o", change)]
    lines.append(shlex.join(["fdm", "data", str(manifest["data"]["name"]), *data]))
    rest = [
        f"{suite}:{name}",
        *words,
        "--seed",
        str(manifest["seed"]),
        "--to",
        f"results/{suite}/{name}/seed{manifest['seed']}",
    ]
    steps = [step for step in ("pretrain", "train", "sample", "evaluate") if step in manifest["identities"]]
    return lines + [shlex.join(["fdm", step, *rest]) for step in steps]


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
