"""Pretrained weights: located, verified and read without running code that a file may contain."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from runcard.errors import UserError
from runcard.fileio import LOAD_ERRORS, sha256


def published(url: str, function: str) -> Path:
    """Return torch's cached copy of a published file, downloaded first where there is none.

    The name ends in the first digits of the file's SHA-256, as torchvision's do (vgg16-397923af.pth), and the bytes
    must match them. function is the package's own call for the same file, for messages.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:
            raise UserError(
                f"{path}: not on this machine, and {url} could not be fetched ({error}).\n"
                f"It is the file of {function}: put a copy there, or set model.weights to a local .safetensors or .pth "
                "file."
            ) from None
    digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if digits and not (found := sha256(path)).startswith(digits[1]):
        raise UserError(
            f"{path}: damaged or another file: its SHA-256 begins with {found[:8]}, not {digits[1]}. Remove it, and it "
            "is downloaded again."
        )
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth or .pt file that holds nothing but a state dict."""
    if not path.is_file():
        raise UserError(f"model.weights: {path}: no such file.")
    try:
        is_safe = path.suffix == ".safetensors"
        content = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *LOAD_ERRORS) as error:
        said = str(error).partition("\n")[0] or "the file ends too early"
        raise UserError(f"{path}: weights cannot be read: {said}") from None
    items = content.items() if isinstance(content, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in items):
        raise UserError(f"{path}: weights must be a state dict, names with tensors; this holds something else.")
    return content
