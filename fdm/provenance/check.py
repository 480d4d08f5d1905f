"""`fdm check`: is every file what it was when it was made, and do records, data, tables and scores fit together?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fdm.config import nearest
from fdm.data import open_store
from fdm.errors import UserError
from fdm.progress import Progress
from fdm.provenance.again import same_now
from fdm.provenance.chain import chain
from fdm.provenance.finding import Finding, Status
from fdm.provenance.folder import (
    MANIFEST,
    PUBLISHED,
    RunFolder,
    read_folder,
    record_name,
    results_of,
    under_dvc,
    unpublished,
)
from fdm.provenance.rescore import rescore
from fdm.provenance.tables import check_tables
from fdm.store import sha256


def check_everything(
    suites: Sequence[str], results: Path | None, reports: Path | None, metrics: int, device: str = "auto"
) -> list[Finding]:
    """``check_suites`` in one folder of results, or (None) in ``results`` and, of suites that are not there, in what is published.

    Raises:
        UserError: there are no such results.
    """
    if results:
        return check_suites(suites, results, reports or results.parent / "reports", metrics, device)
    there = sorted({path.name for root in (Path(), PUBLISHED) for path in (root / "results").glob("*/")})
    if unknown := [name for name in suites if name not in there]:
        raise UserError(
            f"{unknown[0]}: no results of it here{nearest(unknown[0], there)}; there are: {', '.join(there) or 'none'}"
        )
    if not there:
        return check_suites(suites, Path("results"), Path("reports"), metrics, device)
    found, stores = list[Finding](), dict[Path, Finding]()
    for name in suites or there:
        folder = results_of(name).parent
        found += check_suites([name], folder, reports or folder.parent / "reports", metrics, device, stores)
    return found


def check_suites(
    suites: Sequence[str],
    results: Path,
    reports: Path,
    metrics: int,
    device: str = "auto",
    stores: dict[Path, Finding] | None = None,
) -> list[Finding]:
    """Check the results of suites, those of all suites where none is named.

    Args:
        metrics: so many runs of each suite have their scores computed again.
        stores: prepared data that were checked before; what is checked now is added.

    Raises:
        UserError: there are no such results.
    """
    there = sorted(path.name for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    if unknown := [name for name in suites if name not in there]:
        known = ", ".join(there) or "none"
        raise UserError(f"{results / unknown[0]}: no results here{nearest(unknown[0], there)}; there are: {known}")
    if not there:
        raise UserError(
            f"{results}: no results here; `snakemake` makes them, or `dvc pull` brings them from a remote that has them"
        )
    stores = {} if stores is None else stores
    return [
        finding
        for suite in suites or there
        for finding in _suite(suite, results / suite, reports / suite, metrics, device, stores)
    ]


def _suite(
    suite: str, results: Path, report: Path, metrics: int, device: str, stores: dict[Path, Finding]
) -> list[Finding]:
    folders = [path for path in sorted(results.glob("*/seed*")) if path.is_dir()]
    if not folders:
        return [Finding(suite, "files", *missing(results))]
    runs = [read_folder(folder) for folder in folders]
    found: list[Finding] = []
    with Progress(f"check {suite}", sum(_size(run.folder / name) for run in runs for name in run.files), "B") as bar:
        for run in runs:
            found += check_run(suite, run, lambda path: bar.advance(_size(path)))
    for run in runs:
        found += _data(suite, run, stores)
    found += rescore(suite, runs, metrics, device)
    complete = all(finding.status == "good" for finding in found if finding.kind == "files")
    return [*found, *check_tables(suite, results, report, complete, any(run.unfinished for run in runs))]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def check_run(suite: str, run: RunFolder, hashed: Callable[[Path], object] = lambda path: None) -> Iterator[Finding]:
    """Files and records of one run, and how they hang together.

    Args:
        hashed: called with each file that was read.
    """
    folder = run.folder
    for name, said in run.damaged.items():
        yield Finding(suite, "records", "bad", str(folder / name), said)
    for name in run.records:
        yield Finding(suite, "records", "good", str(folder / name))
    for name, wanted in run.files.items():
        path = folder / name
        if not path.is_file():
            yield Finding(suite, "files", *missing(path))
            continue
        if sha256(path) == wanted:
            yield Finding(suite, "files", "good", str(path))
        else:
            yield Finding(suite, "files", "bad", str(path), "not the file that was made: its SHA-256 differs")
        hashed(path)
    manifest = run.manifest
    if manifest is None:
        if run.unfinished:
            yield Finding(suite, "records", "note", str(folder), "not finished; `snakemake` goes on")
        elif MANIFEST not in run.damaged:
            yield Finding(suite, "records", *missing(folder / MANIFEST))
        return
    for step in manifest["records"]:
        if not (folder / record_name(step)).is_file():
            yield Finding(suite, "records", *missing(folder / record_name(step)))
    faults = list(chain(run, manifest))
    for said in faults:
        yield Finding(suite, "identities", "bad", str(folder), said)
    if not faults:
        same, sentence = same_now(manifest, str(folder / MANIFEST))
        yield Finding(suite, "identities", "good" if same else "note", str(folder), "" if same else sentence)


def missing(path: Path) -> tuple[Status, str, str]:
    """Status, thing and reason of what is not there: no fault if DVC has it, or it was not published."""
    if unpublished(path):
        return (
            "absent",
            str(path),
            "not in git (dvc pull from a remote that has it, or make it again: fdm trace says how)",
        )
    if under_dvc(path):
        return "absent", str(path), "not here (dvc pull from a remote that has it)"
    return "bad", str(path), "missing"


def _data(suite: str, run: RunFolder, stores: dict[Path, Finding]) -> Iterator[Finding]:
    """The prepared data that a run was made of; each store is read once."""
    if run.manifest is None:
        return
    folder, digest = Path("data") / str(run.manifest["data"]["name"]), run.manifest["data"]["digest"]
    if folder not in stores:
        stores[folder] = finding = _store(suite, folder)
        yield finding
    if stores[folder].status == "good" and open_store(folder).digest != digest:
        yield Finding(suite, "data", "bad", str(folder), f"other data than those of {run.folder}")


def _store(suite: str, folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding(
            suite, "data", "absent", str(folder), f"not here (fdm data {folder.name}, or dvc pull from a remote)"
        )
    try:
        open_store(folder).verify()
    except UserError as error:
        return Finding(suite, "data", "bad", str(folder), str(error))
    return Finding(suite, "data", "good", str(folder))
