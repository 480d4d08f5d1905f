"""Signal transforms f_k with their approximate inverses g_k: one file per pair, found by its name."""

from fdm.transforms.base import Transform, build_transform, parse_transform

__all__ = ["Transform", "build_transform", "parse_transform"]
