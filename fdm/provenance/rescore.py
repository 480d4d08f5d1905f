"""Scores of some runs, computed again from their samples and compared with what was published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fdm.data import open_store
from fdm.device import choose
from fdm.errors import UserError
from fdm.experiment import identity
from fdm.progress import Progress
from fdm.provenance.again import recorded_run
from fdm.provenance.finding import Finding
from fdm.provenance.folder import RunFolder, under_dvc
from fdm.runs import reference_of

RELATIVE = 1e-3
ABSOLUTE = {"kid_mean": 1e-5, "kid_std": 1e-5, "precision": 2e-3, "recall": 2e-3}
"""Least tolerance by score, 1e-3 of any other: features are float32, so processors, GPUs and numbers of threads round differently,
and a sample at the edge of a neighbourhood may fall on either side of it."""


def tolerance(score: str, published: float) -> float:
    """How far a score that is computed again may lie from the published one."""
    return max(RELATIVE * abs(published), ABSOLUTE.get(score, 1e-3))


def chosen(runs: Sequence[RunFolder], count: int) -> list[RunFolder]:
    """``count`` runs, always the same of the same results: those whose identities of evaluation come first in a hash."""
    known = [(run, run.manifest["identities"]["evaluate"]) for run in runs if run.manifest]
    return [run for run, own in sorted(known, key=lambda item: (identity(item[1]), str(item[0].folder)))[:count]]


def rescore(suite: str, runs: Sequence[RunFolder], count: int, device: str) -> Iterator[Finding]:
    """Compute the scores of ``count`` runs again; of those whose samples and data are here."""
    here = [run for run in runs if (run.folder / "samples.npy").is_file()]
    if runs and count and not here:
        where = runs[0].folder / "samples.npy"
        said = "not here (dvc pull from a remote that has it)" if under_dvc(where) else "no samples here"
        yield Finding(suite, "scores", "absent", "samples", said)
    for run in chosen(here, count):
        yield from _rescore(suite, run, device)


def _rescore(suite: str, run: RunFolder, device: str) -> Iterator[Finding]:
    from fdm.evaluation.features import Kept
    from fdm.evaluation.scores import score, workload
    from fdm.evaluation.weights import inception_weights

    manifest, where = run.manifest, f"scores of {run.folder}"
    assert manifest
    folder = Path("data") / manifest["data"]["name"]
    if not folder.is_dir():
        yield Finding(
            suite, "scores", "absent", where, f"data not here (fdm data {folder.name}, or dvc pull from a remote)"
        )
        return
    if any(name.startswith("inception") for name in manifest["experiment"]["evaluation"]["features"]):
        try:
            inception_weights()
        except UserError as error:
            yield Finding(suite, "scores", "absent", where, str(error))
            return
    try:
        evaluation = recorded_run(manifest, str(run.folder / "manifest.json")).experiment.evaluation
        reference = reference_of(open_store(folder), evaluation)
        samples = np.load(run.folder / "samples.npy", allow_pickle=False)
        published = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))["features"]
        with TemporaryDirectory() as anew:  # features that the run left behind are not trusted
            drawn = Kept(samples, Path(anew))
            with Progress(f"score {run.folder}", workload(drawn, reference, evaluation), "img") as bar:
                computed = score(drawn, reference, evaluation, str(choose(device)), bar.advance)
    except (UserError, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        yield Finding(suite, "scores", "bad", where, f"cannot be computed again: {' '.join(str(error).split())}")
        return
    for network in sorted(published.keys() | computed.keys()):
        before, after = published.get(network, {}), computed.get(network, {})
        for name in sorted(before.keys() | after.keys()):
            said, true = before.get(name), after.get(name)
            what = f"{where}: {network}/{name}"
            if said is None or true is None or not abs(said - true) <= tolerance(name, said):
                yield Finding(suite, "scores", "bad", what, f"metrics.json says {said}, the samples give {true}")
            else:
                yield Finding(suite, "scores", "good", what)
