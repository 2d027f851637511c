"""U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597).

It differs from the paper's in four ways: the convolutions are padded, so that the logits have the image's size; the
width is a parameter (`base`; 64 in the paper); dropout and batch norm are options; and the upsampling is by default a
transposed 3x3 convolution (2x2 in the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runcard.errors import check_choice, check_flag, check_integer, check_number
from runcard.models.initialization import initialize

PLACES = ("pool", "concat", "bottleneck")
MAX_DEPTH = 14  # halvings of the largest image, of 16384 pixels
UPSAMPLINGS = ("transpose3", "transpose2", "bilinear")


def conv_block(in_channels: int, out_channels: int, batchnorm: bool) -> nn.Sequential:
    """Build two 3x3 convolutions, each with its ReLU: (N, in_channels, H, W) -> (N, out_channels, H, W)."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # The bias stays where batch norm follows and cancels it: Keras keeps it too, so the parameter counts agree, and
        # batchnorm=true adds layers without removing anything.
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1))
        if batchnorm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())  # not in place: activation maps hook the convolution's own output
    return nn.Sequential(*layers)


def upsampling(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """Build a layer that doubles height and width: (N, in_channels, H, W) -> (N, out_channels, 2H, 2W)."""
    if kind == "transpose3":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1)
    if kind == "transpose2":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    # Bilinear, then a 3x3 convolution, which avoids the checkerboards of transposed ones (Odena et al. 2016,
    # https://distill.pub/2016/deconv-checkerboard). 3x3 rather than 1x1: as many parameters as transpose3.
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
    )


class UNet(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, out_channels, H, W), for any H and W.

    base: channels of the first level; they double at each of the depth poolings, to base * 2**depth at the bottom.
    dropout: probability with which single elements are dropped, as Keras's Dropout does (not whole channels).
    dropout_at: the places of dropout: after each "pool", after each "concat", after the "bottleneck" (the paper's).
    upsample: "transpose3", "transpose2" (the paper's) or "bilinear".
    init: see runcard.models.initialization.

    Raises ValueError, naming the argument, for a value outside these.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base: int = 16,
        depth: int = 4,
        dropout: float = 0.0,
        dropout_at: Sequence[str] = ("pool", "concat"),
        batchnorm: bool = False,
        upsample: str = "transpose3",
        init: str = "glorot",
    ) -> None:
        super().__init__()
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        check_integer("base", base, 1)
        check_integer("depth", depth, 1, MAX_DEPTH)
        dropout = check_number("dropout", dropout, 0, 1)
        if isinstance(dropout_at, str) or not isinstance(dropout_at, Sequence):
            raise ValueError(f"dropout_at must be a list of {', '.join(PLACES)}, got {dropout_at!r}")
        places = [check_choice("dropout_at", place, PLACES) for place in dropout_at]
        if dropout > 0 and not places:
            raise ValueError(f"dropout_at must name a place ({', '.join(PLACES)}) where dropout is above 0, got []")
        check_flag("batchnorm", batchnorm)
        check_choice("upsample", upsample, UPSAMPLINGS)

        widths = [base * 2**level for level in range(depth + 1)]  # the last is the bottleneck's
        down = list(pairwise([in_channels, *widths]))  # (in, out) of each level, the bottleneck's last
        up = list(pairwise(reversed(widths)))
        self.encoder = nn.ModuleList(conv_block(i, o, batchnorm) for i, o in down[:-1])
        self.pool = nn.MaxPool2d(kernel_size=2)
        self.bottleneck = conv_block(*down[-1], batchnorm)
        self.upsample = nn.ModuleList(upsampling(upsample, i, o) for i, o in up)
        self.decoder = nn.ModuleList(conv_block(2 * o, o, batchnorm) for _, o in up)
        self.after_pool, self.after_concat, self.after_bottleneck = (
            nn.Dropout(dropout) if place in places else nn.Identity() for place in PLACES
        )
        initialize(self, init)
        # Made and drawn last: the number of logits, one or K, changes none of the weights above.
        self.head = nn.Conv2d(base, out_channels, kernel_size=1)
        initialize(self.head, init)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, out_channels, H, W) from images (N, in_channels, H, W)."""
        height, width = images.shape[-2:]
        divisor = 2 ** len(self.encoder)
        x = images
        if height % divisor or width % divisor:
            # Upsampling must restore the sizes before pooling. The last row and column are repeated: zeros would draw
            # an edge that is not in the image (after normalization 0 is mid-grey), and reflection fails on images
            # smaller than the padding.
            x = F.pad(x, (0, -width % divisor, 0, -height % divisor), mode="replicate")
        skips = []
        for block in self.encoder:
            x = block(x)  # (N, base * 2**level, H / 2**level, W / 2**level)
            skips.append(x)
            x = self.after_pool(self.pool(x))
        x = self.after_bottleneck(self.bottleneck(x))
        for upsample, block, skip in zip(self.upsample, self.decoder, reversed(skips), strict=True):
            x = block(self.after_concat(torch.cat([upsample(x), skip], dim=1)))
        logits: Tensor = self.head(x)
        return logits[..., :height, :width]
