"""Malformed input for the property-based tests: strategies that break real parameter files, images, arrays and weights."""

from __future__ import annotations

import copy
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from fdm.data.store import manifest_digest
from fdm.tensors import save_tensors

NESTED = 3000
HOSTILE_TEXT = (
    b"", b"\n", b"---\n", b"null\n", b"42", b"[1, 2]", b"just words", b"\x00\x01\x02", b"\xff\xfe\x00k", b"a: \xe9", b"\t- x",
    "title: Füße".encode("utf-16"), "title: Füße".encode("latin-1"), b"a: b: c", b"a: [1, 2", b"a: 'x", b"{a: 1, b}", b"a: *nobody",
    b"!!python/object/apply:os.system ['touch owned']", b"title: !!python/name:os.system", b"title: !!python/object:fdm.cli.main {}",
    b"seeds: !!set {a, b}", b"title: !!binary '%%%'", b"title: !!int abc", b"title: !!float abc", b"title: !!bool abc",
    b"title: !!timestamp abc", b"a: !unknown 1", b"a: 2001-99-99", b"a: 0b_", b"a: " + b"9" * 5000, b"? [a, b]\n: c", b"{{a: 1}: 2}",
    b"a: &a [*a]", b"a: &a {b: *a}", b"<<: 3", b"<<: [1, 2]", b"a: 1\n--- \nb: 2", b"%YAML 9.9\n---\na: 1", b"a: \"\\uD800\"", b"=: =",
    b"a: " + b"[" * NESTED, b"a: " + b"[" * NESTED + b"]" * NESTED, b"{a: " * NESTED, b"- " * NESTED, b"a: " + b"x" * 300_000,
    b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
)  # fmt: skip
"""Whole files that are no parameter files: other types, encodings, tags, anchors that explode, nesting without end."""

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, -(10**9), 10**9, 10**18, 2**63, 10**40, 0.5, -0.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "x", "many", "nan", "1e999", ".inf", "-1", "1_0", "../x", "a/b", "..x", ".", "-o", "--help", "ü", "画像", "a b",
    "a\nb", "\x1b[31m", "\u202e", "x" * 5000, "nul\x00", [], [[]], {}, {"x": 1}, {1: 2}, {None: None}, {(): 0}, [0], [-1], [1, 1], [10**9] * 3, [None],
    ["x"] * 300, [0.5, 0.2], [float("nan")], {"kind": "resize"}, {"kind": "nothing"}, [{"kind": "blur", "width": 1e300}], b"\xff\x00",
)  # fmt: skip

Keys = tuple[Any, ...]


def places(tree: Any, at: Keys = ()) -> Iterator[Keys]:
    """Keys to every value of nested mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from places(value, (*at, key))


@st.composite
def broken_trees(draw: st.DrawFn, tree: Any) -> Any:
    """``tree`` with one to three values replaced, removed, renamed, moved or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(tree))
        if not found:
            return copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        at = draw(st.sampled_from(found))
        holder = tree
        for key in at[:-1]:
            holder = holder[key]
        odd = draw(st.sampled_from(ODD_VALUES).map(copy.deepcopy) | st.integers() | st.floats() | st.text(max_size=8))
        match draw(st.sampled_from(["replace"] * 4 + ["remove", "rename", "add", "wrap", "scale"])):
            case "replace":
                holder[at[-1]] = odd
            case "remove":
                del holder[at[-1]]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["naem", "", "-", 3, None, "a.b"]) | st.text(max_size=4))] = holder.pop(
                    at[-1]
                )
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["unknown", "path", "limit", "x\ny"]))] = odd
            case "scale" if isinstance(holder[at[-1]], (int, float)):
                holder[at[-1]] = holder[at[-1]] * draw(st.sampled_from([-1, 0, 0.3, 1e9, 10**9]))
            case _:
                holder[at[-1]] = draw(st.sampled_from([[holder[at[-1]]], {"x": holder[at[-1]]}]))
    return tree


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` cut, flipped (mostly near its head), overwritten, doubled or replaced."""
    size = len(content)
    head = st.integers(0, max(0, min(size, 400) - 1)) | st.integers(0, max(0, size - 1))
    changed = bytearray(content)
    match draw(st.sampled_from(["cut", "flip", "flip", "flip", "fill", "lose", "append", "garbage", "empty"])):
        case "cut":
            return content[: draw(head)]
        case "flip" if size:
            for _ in range(draw(st.integers(1, 6))):
                changed[draw(head)] ^= 1 << draw(st.integers(0, 7))
        case "fill":
            start = draw(head)
            length = min(draw(st.integers(1, 300)), size - start)
            changed[start : start + length] = draw(st.sampled_from([b"\x00", b"\xff", b"A"])) * length
        case "lose":
            start = draw(head)
            del changed[start : start + draw(st.integers(1, 300))]
        case "append":
            changed += draw(st.binary(min_size=1, max_size=50))
        case "garbage":
            return draw(st.binary(min_size=1, max_size=200))
        case _:
            return b""
    return bytes(changed)


@st.composite
def broken_yaml(draw: st.DrawFn, text: bytes) -> bytes:
    """A parameter file that was real once."""
    match draw(st.sampled_from(["tree"] * 6 + ["bytes", "hostile", "hostile", "anchors"])):
        case "tree":
            tree = draw(broken_trees(yaml.safe_load(text)))
            return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()
        case "bytes":
            return draw(broken_bytes(text))
        case "anchors":
            return text + b"\nextra: &e {a: 1}\nmore: [*e, *e]\n"
    return draw(st.sampled_from(HOSTILE_TEXT))


@st.composite
def broken_json(draw: st.DrawFn, text: bytes) -> bytes:
    """A JSON record that was real once."""
    match draw(st.sampled_from(["tree", "tree", "bytes", "hostile"])):
        case "tree":
            return json.dumps(draw(broken_trees(json.loads(text))), skipkeys=True, default=str).encode()
        case "bytes":
            return draw(broken_bytes(text))
    hostile = [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"9" * 5000,
        b'{"identity": 1e999}',
    ]
    return draw(st.sampled_from(hostile))


# --- images


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_of_size(width: int, height: int, depth: int = 8, kind: int = 0) -> bytes:
    """A PNG that declares a size and holds hardly anything."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def _pixels(side: int, channels: int) -> Image.Image:
    values = np.random.default_rng(side).integers(0, 256, (side, side, channels), dtype=np.uint8)
    return Image.fromarray(values if channels == 3 else values[..., 0])


def _exif(value: bytes) -> bytes:
    """A JPEG with this for EXIF."""
    return _encoded(_pixels(16, 3), "JPEG", exif=b"Exif\x00\x00" + value)


PLAIN_IMAGES = (
    *(_encoded(_pixels(16, channels), form) for form in ("PNG", "JPEG", "WEBP", "BMP") for channels in (1, 3)),
    _encoded(_pixels(16, 3).convert("P"), "PNG", transparency=0),
    _encoded(_pixels(16, 3).convert("CMYK"), "JPEG"),
    _encoded(_pixels(16, 3), "JPEG", progressive=True),
    _exif(b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"),
)
ODD_IMAGES = (
    b"", b"GIF89a", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff",
    png_of_size(0, 0), png_of_size(0, 16), png_of_size(16, 16), png_of_size(1 << 31, 1 << 31), png_of_size((1 << 31) - 1, (1 << 31) - 1),
    png_of_size(30_000, 30_000), png_of_size(9_000, 9_000), png_of_size(16, 16, 16), png_of_size(16, 16, 8, 7), png_of_size(16, 16, 99),
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0),
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -16, -16, 1, 77, 9, 0, 0, 0, 1 << 31, 0),
    _encoded(Image.new("I;16", (16, 16), 40_000), "PNG"), _encoded(Image.new("F", (16, 16), 0.5), "TIFF"), _encoded(_pixels(16, 3), "GIF"),
    _encoded(_pixels(16, 3), "PPM"), _encoded(_pixels(16, 3), "ICO"), _encoded(_pixels(2, 3), "PNG"), _encoded(_pixels(16, 3).resize((1, 900)), "PNG"),
    _encoded(_pixels(16, 3), "WEBP", save_all=True, append_images=[_pixels(16, 3)] * 2),
    _encoded(_pixels(16, 3), "PNG", save_all=True, append_images=[_pixels(16, 3)] * 2),
    _exif(b""), _exif(b"MM\x00*"), _exif(b"II*\x00\xff\xff\xff\xff"), _exif(b"XX" + bytes(30)),
    _exif(b"MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00\x03\x00\x00\x00\x01\x00\x63\x00\x00"),
    _exif(b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x05\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x00"),
    _exif(b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x02\x00\x00\x00\x04abc\x00"),
)  # fmt: skip


@st.composite
def broken_images(draw: st.DrawFn) -> bytes:
    """A file that calls itself an image."""
    if draw(st.integers(0, 2)) == 0:
        return draw(st.sampled_from(ODD_IMAGES))
    return draw(broken_bytes(draw(st.sampled_from(PLAIN_IMAGES + ODD_IMAGES))))


# --- arrays and weights

ODD_ARRAYS = (
    np.zeros(0), np.array(np.nan), np.full((2, 2), np.inf), np.zeros((1, 1, 8, 8), np.float64), np.array([{}], dtype=object), np.array("x"),
    np.zeros((64, 3, 8, 8), np.uint8), np.zeros((64, 1, 4, 4), np.uint8), np.zeros((3, 1, 8, 8), np.uint8), np.zeros(64, "M8[s]"),
    np.zeros((64, 1, 8, 8), np.complex64), np.zeros(3, [("a", "i4")]), np.zeros((0, 1, 8, 8), np.uint8), np.asfortranarray(np.ones((64, 1, 8, 8), np.uint8)),
)  # fmt: skip
ODD_HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999999999,)}", "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "{'descr': '|u1', 'shape': (1,)}", "{'descr': 7, 'fortran_order': 0, 'shape': 'x'}",
    "__import__('os').system('touch owned')", "{'descr': '<f99', 'fortran_order': False, 'shape': ()}", "(" * 3000, "{'a': \"", "{\n  'descr':\n 'x'",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 1000)}", "", "\x00" * 40, "9" * 9000,
)  # fmt: skip


def npy(array: np.ndarray) -> bytes:
    """The array as a .npy file; objects are pickled."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@st.composite
def broken_npy(draw: st.DrawFn, content: bytes) -> bytes:
    """An array file that was real once."""
    match draw(st.sampled_from(["bytes", "bytes", "other", "header"])):
        case "bytes":
            return draw(broken_bytes(content))
        case "other":
            return npy(draw(st.sampled_from(ODD_ARRAYS)))
    header = draw(st.sampled_from(ODD_HEADERS)).encode()
    return (
        b"\x93NUMPY"
        + draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x09\x09"]))
        + struct.pack("<H", len(header))
        + header
    )


@st.composite
def broken_manifests(draw: st.DrawFn, text: bytes) -> bytes:
    """The manifest of a data store; some match their own digest."""
    content = draw(broken_json(text))
    try:
        manifest = json.loads(content)
        return (
            json.dumps({**manifest, "digest": manifest_digest(manifest)}).encode() if draw(st.booleans()) else content
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return content


@st.composite
def broken_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A checkpoint that was real once: other names, shapes, types, values or metadata, or a damaged file."""
    length = int.from_bytes(content[:8], "little")
    match draw(st.sampled_from(["bytes", "bytes", "header", "facts", "metadata", "tensors", "tensors", "length"])):
        case "bytes":
            return draw(broken_bytes(content))
        case "length":
            odd = draw(st.sampled_from([0, 1, length - 1, length + 1, 10**9, 2**63, 2**64 - 1]))
            return odd.to_bytes(8, "little") + content[8:]
        case "header" | "metadata" as part:
            header = json.loads(content[8 : 8 + length])
            if part == "header":
                header = draw(broken_trees(header))
            else:
                header["__metadata__"]["fdm"] = draw(broken_json(header["__metadata__"]["fdm"].encode())).decode(
                    errors="replace"
                )
            raw = json.dumps(header, skipkeys=True, default=str).encode()
            return len(raw).to_bytes(8, "little") + raw + content[8 + length :]
        case part:
            return draw(_other_content(content, part))


@st.composite
def _other_content(draw: st.DrawFn, content: bytes, part: str) -> bytes:
    """A file that is whole, checksums included, and says something else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(content)
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["fdm"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts.pop("sha256", None)
        if part == "facts":
            key = draw(st.sampled_from(sorted(set(facts) - {"identity"})))
            facts[key] = draw(
                st.sampled_from(
                    [
                        "",
                        "null",
                        "[]",
                        "{}",
                        "3",
                        "-7",
                        "nan",
                        "x\ny",
                        '{"power_ratios": "x"}',
                        "[" * 5000,
                        3,
                        None,
                        ["x"],
                    ]
                )
            )
            if draw(st.booleans()):
                del facts[key]
        else:
            _change(draw, tensors, draw(st.sampled_from(sorted(tensors))))
        save_tensors(path, tensors, facts)
        return path.read_bytes()


def _change(draw: st.DrawFn, tensors: dict[str, torch.Tensor], name: str) -> None:
    old = tensors[name]
    match draw(st.sampled_from(["lose", "rename", "add", "shape", "type", "nan", "inf", "none"])):
        case "lose":
            del tensors[name]
        case "rename":
            tensors[draw(st.sampled_from(["", "x", "модель", "a\nb", name + ".x"]))] = tensors.pop(name)
        case "add":
            tensors["model.extra"] = torch.zeros(3)
        case "shape":
            tensors[name] = draw(
                st.sampled_from([old.reshape(-1), old[None], old.new_zeros(2, 3), old.new_zeros(0)])
            ).clone()
        case "type":
            kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool]
            tensors[name] = old.to(draw(st.sampled_from(kinds)))
        case "nan" | "inf" as value:
            for key in list(tensors) if value == "nan" else [name]:
                if tensors[key].is_floating_point():
                    tensors[key] = torch.full_like(tensors[key], float(value))
        case _:
            tensors.clear()
