"""Signal transforms f_k with their approximate inverses g_k: one file per pair, found by its name."""

from fdm.transforms.base import Codec, Transform, build_transform, parse_transform

__all__ = ["Codec", "Transform", "build_transform", "parse_transform"]
