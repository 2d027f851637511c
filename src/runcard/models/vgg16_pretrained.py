"""VGG16 with ImageNet's convolutions, frozen or fine-tuned, under a new head of dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torchvision.models import VGG16_Weights

from runcard.errors import UserError, check_choice
from runcard.fileio import sha256
from runcard.models.pretrained import published, read_state_dict
from runcard.models.vgg16 import STAGES, VGG16

IMAGENET = VGG16_Weights.IMAGENET1K_V1
FREEZE = {"features": len(STAGES), "none": 0} | {f"first_{k}_blocks": k for k in range(1, len(STAGES))}  # blocks


class PretrainedVGG16(VGG16):
    """Images (N, in_channels, image_size_px, image_size_px) -> logits (N, out_channels); base 64, no batch norm.

    weights: "imagenet" (torchvision's file), "random", or a .safetensors or .pth file with torchvision's key names, of
    which only the convolutions are read. With one input channel the first kernels are summed over RGB, which equals
    the grey image repeated three times wherever all channels are normalised alike.
    freeze: "features" (all convolutions), "none", or "first_1_blocks" to "first_4_blocks".

    load_pretrained_weights reads the convolutions, not the constructor: a saved model can be rebuilt without the file.
    Raises ValueError, naming the argument, for a wrong value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size_px: int,
        weights: str = "imagenet",
        freeze: str = "features",
        head: Sequence[int] = (128,),
        dropout: float = 0.5,
        init: str = "glorot",
    ) -> None:
        if not isinstance(weights, str) or not weights:
            raise ValueError(f"weights must be imagenet, random or the path of a file, got {weights!r}")
        check_choice("freeze", freeze, FREEZE)
        super().__init__(in_channels, out_channels, image_size_px, head=head, dropout=dropout, init=init)
        self.weights = weights
        num_blocks = FREEZE[freeze]
        pools = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.MaxPool2d)]
        self.num_frozen = pools[num_blocks - 1] + 1 if num_blocks else 0  # leading layers of features
        for parameter in self.features[: self.num_frozen].parameters():
            parameter.requires_grad_(False)

    def load_pretrained_weights(self) -> str | None:
        """Copy the file's convolutions into the model; return the file's SHA-256, or None where weights=random."""
        if self.weights == "random":
            return None
        if self.weights == "imagenet":
            path = published(IMAGENET.url, 'torchvision.models.vgg16(weights="IMAGENET1K_V1")')
        else:
            path = Path(self.weights).expanduser()
        found = {
            name.removeprefix("features."): tensor
            for name, tensor in read_state_dict(path).items()
            if name.startswith("features.")
        }
        if self.features[0].in_channels == 1 and "0.weight" in found:
            found["0.weight"] = found["0.weight"].sum(dim=1, keepdim=True)
        own = self.features.state_dict()
        wrong = [f"features.{name}" for name in own if name not in found or found[name].shape != own[name].shape]
        wrong += [f"features.{name}" for name in found if name not in own]
        if wrong:
            raise UserError(
                f"{path}: not the convolutions of torchvision's vgg16: {', '.join(wrong[:4])} absent or of another "
                "shape."
            )
        self.features.load_state_dict(found, strict=True)
        return sha256(path)

    def frozen_and_trained(self) -> tuple[nn.Module, nn.Module] | None:
        """Return the frozen front and the rest, which share this model's parameters; None where nothing is frozen.

        rest(front(images)) equals forward(images). The front has neither dropout nor batch norm, so that it is the same
        in training and in evaluation.
        """
        if not self.num_frozen:
            return None
        rest = nn.Sequential(*self.features[self.num_frozen :], nn.Flatten(1), *self.classifier)
        return self.features[: self.num_frozen], rest
