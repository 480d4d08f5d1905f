"""Do the records of one run belong together: scores to samples, samples to weights, weights to autoencoder and data?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from safetensors import SafetensorError, safe_open

from fdm.data.store import manifest_digest
from fdm.provenance.folder import RunFolder, record_name

WEIGHTS = {"train": "model.safetensors", "pretrain": "autoencoder.safetensors"}
LATER = ("restore", "vary", "interpolate")


def chain(run: RunFolder, manifest: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for every link that does not hold."""
    try:
        yield from _links(run, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        yield f"manifest.json lacks an entry ({error})"


def _links(run: RunFolder, manifest: Mapping[str, Any]) -> Iterator[str]:
    identities, records, data = manifest["identities"], manifest["records"], manifest["data"]
    if f"seed{manifest['seed']}" != run.folder.name:
        yield f"manifest.json is of seed {manifest['seed']}"
    if data["digest"] != manifest_digest(data):
        yield "the data's digest in manifest.json is not that of their description"
    if identities.keys() != records.keys():
        yield "manifest.json has identities and records of different steps"
    for step, record in records.items():
        if record["identity"] != identities.get(step):
            yield f"the {step} record in manifest.json is of another run"
        own = run.records.get(record_name(step))
        if step == "evaluate" or own is None:
            continue
        # Scores of an autoencoder may be added to its record later, when another experiment asks for them.
        keys = ("identity", "files") if step == "pretrain" else tuple({**own, **record})
        if any(own.get(key) != record.get(key) for key in keys):
            yield f"{step}.json is not the record in manifest.json: scores and {step} are of different runs"
    for step, name in WEIGHTS.items():
        if step in identities and (run.folder / name).is_file() and _owner(run, name) != identities[step]:
            yield f"{name} is not the weights of run {identities[step]}"
    for step in LATER:
        later = run.records.get(record_name(step))
        if later and later.get("train") != identities["train"]:
            yield f"{step}.json was made with another training"
    metrics = _json(run, "metrics.json")
    if metrics and metrics["reference"]["digest"] != data["digest"]:
        yield "metrics.json compares with other data than the run was trained on"
    if metrics and metrics["samples"] != records["sample"].get("count", metrics["samples"]):
        yield "metrics.json is of another number of samples"


def _owner(run: RunFolder, name: str) -> str | None:
    """The identity in the header of a weights file; None where it cannot be read."""
    try:
        with safe_open(run.folder / name, framework="numpy") as file:
            return str(json.loads((file.metadata() or {})["fdm"])["identity"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _json(run: RunFolder, name: str) -> Any:
    """Content of a file that is as recorded; None of any other, about which enough is said elsewhere."""
    if run.state(name) != "as recorded":
        return None
    return json.loads((run.folder / name).read_text(encoding="utf-8"))
