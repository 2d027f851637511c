"""VGG16 (Simonyan and Zisserman 2015, configuration D, https://arxiv.org/abs/1409.1556), at any width and image size.

At base 64 and head [4096, 4096] the keys and shapes of its state dict are those of torchvision's vgg16 (with
batchnorm: vgg16_bn), so ImageNet weights load strictly. Two departures from torchvision: no adaptive pooling before
the classifier (its backward is not deterministic on CUDA), so the first dense layer fits one image size; and no ReLU
in place, so that activation maps can hook a convolution's own output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from runcard.errors import check_flag, check_integer, check_number
from runcard.models.initialization import initialize

# (number of convolutions, width as a multiple of base); a 2x2 max pooling ends each of the five
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
SMALLEST_PX = 2 ** len(STAGES)


class VGG16(nn.Module):
    """Images (N, in_channels, image_size_px, image_size_px) -> logits (N, out_channels).

    base: channels of the first stage (64 in the paper); the stages have base x (1, 2, 4, 8, 8).
    head: widths of the hidden dense layers; (4096, 4096) in the paper, () for a linear classifier.
    dropout: probability, after each hidden dense layer.
    init: see runcard.models.initialization.

    Raises ValueError, naming the argument, for a value outside these.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size_px: int,
        base: int = 64,
        head: Sequence[int] = (64, 64),
        dropout: float = 0.4,
        batchnorm: bool = False,
        init: str = "glorot",
    ) -> None:
        super().__init__()
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        check_integer("image_size_px", image_size_px, 1)
        if image_size_px < SMALLEST_PX:
            raise ValueError(
                f"image_size_px must be an integer >= {SMALLEST_PX}, because {len(STAGES)} poolings halve the image, "
                f"got {image_size_px}"
            )
        check_integer("base", base, 1)
        if not isinstance(head, Sequence):
            raise ValueError(f"head must be a list of widths, such as [64, 64], got {head!r}")
        widths = [check_integer("head", width, 1) for width in head]
        dropout = check_number("dropout", dropout, 0, 1)
        if dropout > 0 and not widths:
            raise ValueError(f"dropout must be 0 where head is []: no hidden layer to drop from, got {dropout}")
        check_flag("batchnorm", batchnorm)

        layers: list[nn.Module] = []
        channels = in_channels
        for num_convs, multiple in STAGES:
            for _ in range(num_convs):
                # The bias stays where batch norm follows, as in Keras and in torchvision's vgg16_bn.
                layers.append(nn.Conv2d(channels, base * multiple, kernel_size=3, padding=1))
                if batchnorm:
                    layers.append(nn.BatchNorm2d(base * multiple))
                layers.append(nn.ReLU())
                channels = base * multiple
            layers.append(nn.MaxPool2d(kernel_size=2))
        self.features = nn.Sequential(*layers)

        features = channels * (image_size_px // SMALLEST_PX) ** 2
        layers = []
        for in_features, out_features in pairwise([features, *widths]):
            layers += [nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers)
        initialize(self, init)
        # Made and drawn last: the number of classes changes none of the weights above.
        last = nn.Linear([features, *widths][-1], out_channels)
        initialize(last, init)
        self.classifier.append(last)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, out_channels) from images (N, in_channels, image_size_px, image_size_px)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
