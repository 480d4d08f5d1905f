"""Published MD5 sums, and comparing with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from fdm.errors import UserError

# The uncompressed files, as users of the original archives publish them (torchvision knows those of the .gz files).
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MNIST = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
# The files of CIFAR-10's binary version: 10,000 records of one label byte and 3 x 32 x 32 pixel bytes.
CIFAR10 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def check(dataset: str, files: Mapping[str, bytes], published: Mapping[str, str], where: str) -> None:
    """Compare every published sum with the bytes in ``files``.

    Raises:
        UserError: the first file that differs, with the expected and the found sum.
    """
    for name, expected in published.items():
        found = hashlib.md5(files[name], usedforsecurity=False).hexdigest()
        if found != expected:
            raise UserError(
                f"{dataset}: {name} is damaged: MD5 {found} instead of the published {expected}; "
                f"delete {where} and run the command again"
            )
