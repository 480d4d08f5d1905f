"""``python -m fdm``."""

from fdm.cli import main

main()
