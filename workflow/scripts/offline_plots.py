"""Write the page that `dvc plots` fills, with Vega inside: its own loads scripts from the internet.

    python workflow/scripts/offline_plots.py .dvc/offline.html     # `make plots` also tells DVC of it

Needs npm, which fetches the pinned packages; a package whose digest is another one is refused.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = {
    "vega@5.33.0": "jNAGa7TxLojOpMMMrKMXXBos4K6AaLJbCgGDOw1YEkLRjUkh12pcf65J2lMSdEHjcEK47XXjKiOUVZ8L+MniBA==",
    "vega-lite@5.23.0": "l4J6+AWE3DIjvovEoHl2LdtCUkfm4zs8Xxx7INwZEAv+XVb6kR6vIN1gt3t2gN2gs/y4DYTs/RPoTeYAuEg6mA==",
    "vega-embed@6.29.0": "PmlshTLtLFLgWtF/b23T1OwX53AugJ9RZ3qPE2c01VFAbgt3/GSNI/etzA/GzdrkceXFma+FDHNXUppKuM0U6Q==",
}
"""Packages in the order in which a page needs them, and the SHA-512 of their archives."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Plots of DVC</title>
{refresh_tag}
<script>
%s
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def script(package: str, digest: str, folder: Path) -> str:
    """The minified script of an npm package."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    archive = folder / packed.stdout.strip().splitlines()[-1]
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != digest:
        sys.exit(f"error: {package}: the archive that npm fetched is not the one that was pinned")
    name = package.split("@")[0]
    with tarfile.open(archive) as content:
        member = content.extractfile(f"package/build/{name}.min.js")
        assert member is not None
        # The page is a script element: a closing tag inside a string would end it.
        return member.read().decode().replace("</script", "<\\/script")


def main(target: Path) -> None:
    """Fetch, check and write."""
    with tempfile.TemporaryDirectory() as folder:
        scripts = [script(package, digest, Path(folder)) for package, digest in PACKAGES.items()]
    target.write_text(PAGE % "\n".join(scripts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
