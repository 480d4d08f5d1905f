"""`fdm publish`: what git holds of a suite, so that a clone can read, trace and check its numbers without computing anything."""

from __future__ import annotations

import shutil
from pathlib import Path

from fdm.errors import UserError
from fdm.provenance.check import check_run
from fdm.provenance.folder import MANIFEST, PUBLISHED, PUBLISHED_FILES, PUBLISHED_ONCE, PUBLISHED_PICTURES, read_folder
from fdm.report import build
from fdm.store import same


def publish(suite: str, results: Path, target: Path = PUBLISHED, report: bool = True, pictures: bool = True) -> int:
    """Copy what tables and pictures of all finished runs of a suite are made of, and make the ``report`` of all that is published.

    Runs go to ``results/<suite>`` below ``target``; those that were published before and are not here stay. The report in
    ``reports/<suite>`` there is made of these copies alone, so a clone can make it again; it leaves out, and names, what is not
    there yet. Weights and samples are left out: they are for DVC (docs/dvc.md).

    Args:
        pictures: copy what pictures are made of, too; without it, a run that is new here has some 20 KB, for tables alone.

    Returns:
        The number of runs that were copied.

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
    copied = target / "results" / suite
    for folder in folders:
        own = copied / folder.parent.name / folder.name
        if not same(folder / MANIFEST, own / MANIFEST):
            shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        first = folder == min((other for other in folders if other.parent == folder.parent), key=_seed)
        drawn = (*PUBLISHED_PICTURES, *(PUBLISHED_ONCE if first else ())) if pictures else ()
        for name in (*PUBLISHED_FILES, *drawn):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, own / name)
    if report:
        build(suite, copied, target / "reports" / suite, partial=True)
    return len(folders)


def _seed(folder: Path) -> int:
    return int(folder.name.removeprefix("seed"))
