"""`fdm publish`: what git holds of a suite, so that a clone can trace and check its numbers without computing anything."""

from __future__ import annotations

import shutil
from pathlib import Path

from fdm.errors import UserError
from fdm.provenance.check import check_run
from fdm.provenance.folder import MANIFEST, PUBLISHED, PUBLISHED_FILES, read_folder
from fdm.provenance.tables import check_tables


def publish(suite: str, results: Path, report: Path, target: Path = PUBLISHED) -> tuple[int, bool]:
    """Copy the records and scores of all finished runs of a suite, and its report where there is one, below ``target``.

    They go to ``results/<suite>`` and ``reports/<suite>`` there. Runs that were published before and are not here stay; a report
    is replaced as a whole. Weights, samples and logs of losses are left out: they are for DVC (docs/dvc.md).

    Returns:
        The number of runs, and whether there was a report.

    Raises:
        UserError: nothing to publish, or something in it is not as it was made.
    """
    folders = [path.parent for path in sorted(results.glob(f"*/seed*/{MANIFEST}"))]
    if not folders:
        raise UserError(f"{results}: no finished run here; make the results of {suite!r} first")
    for folder in folders:
        found = list(check_run(suite, read_folder(folder)))
        needed = {str(folder / name) for name in PUBLISHED_FILES}
        if bad := [f for f in found if f.status == "bad" or (f.status == "absent" and f.what in needed)]:
            raise UserError(f"{bad[0].what}: {bad[0].said}; nothing was published (fdm check {suite})")
    if report.is_dir():
        complete = all((folder / "samples.npy").is_file() for folder in folders)
        if bad := [finding for finding in check_tables(suite, results, report, complete) if finding.status == "bad"]:
            raise UserError(f"{report}: {bad[0].said}; nothing was published (fdm report {suite})")
    for folder in folders:
        own = target / "results" / suite / folder.parent.name / folder.name
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        for name in PUBLISHED_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, own / name)
    if not report.is_dir():
        return len(folders), False
    copied = target / "reports" / suite
    if copied.exists():
        shutil.rmtree(copied)
    shutil.copytree(report, copied, ignore=shutil.ignore_patterns(".*"))
    return len(folders), True
