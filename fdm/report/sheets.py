"""Pictures that other verbs have drawn of a run: ``restore.png``, ``vary.png``, ``interpolate.png``."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import numpy as np

from fdm.data.sources.files import read_image
from fdm.errors import UserError
from fdm.report.files import again
from fdm.report.names import slug
from fdm.report.results import Method, Run
from fdm.report.samples import encode
from fdm.report.section import Picture


def sheet(method: Method, run: Run, kind: str, what: str, caption: str, folder: Path) -> Picture:
    """``<kind>.png`` of a run, also copied to ``folder``; ``kind`` is the verb that made it, ``what`` says what it shows.

    Raises:
        UserError: it is missing or damaged.
    """
    path = run.folder / f"{kind}.png"
    try:
        picture = np.asarray(read_image(path, str(path)).convert("RGB"))
    except UserError:
        raise UserError(f"{path}: missing or damaged; {again(run.folder, kind)}") from None
    media, content = encode(picture)
    height, width = picture.shape[:2]
    copyfile(path, folder / f"{kind}-{slug(method.name)}.png")
    name, alt = f"{kind}-{method.name}", f"{what} with {method.title}, seed {run.seed}"
    return Picture(name, method.title, caption, alt, media, content, width, height, (method.name,))
