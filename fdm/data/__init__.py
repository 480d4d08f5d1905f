"""Images on disk: fetch or read a source, bring every image to one size, pack it, and open what was packed.

The format of ``data/<name>/`` is in ``docs/architecture.md``; sources, sizes and checks are in ``docs/data.md``.
"""

from fdm.data.pack import prepare
from fdm.data.pixels import to_float, to_uint8
from fdm.data.store import Split, Store, open_store

__all__ = ["Split", "Store", "open_store", "prepare", "to_float", "to_uint8"]
