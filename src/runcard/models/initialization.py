"""Initial weights: Glorot and Bengio 2010, He et al. 2015, or PyTorch's own.

Keras's layers start Glorot-uniform with zero biases. PyTorch's own weights are smaller (a third of Glorot's variance
between layers of equal width) and its biases random, and the networks of experiments/lab4 then begin to learn later.
`init` is a key of the model's config, so that the difference is a choice and not an accident of the library.
"""

from __future__ import annotations

from torch import nn

from runcard.errors import check_choice

SCHEMES = ("glorot", "kaiming", "default")


def initialize(model: nn.Module, scheme: str) -> None:
    """Draw new weights for every Conv2d, ConvTranspose2d and Linear in model, in module order.

    glorot: U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), Keras's default (Glorot and Bengio 2010, eq. 16).
    kaiming: N(0, 2 / fan_in), made for ReLU networks (He et al. 2015, eq. 10). Both set biases to zero.
    default: what PyTorch drew when it made the layer stays. Norm layers keep weight 1 and bias 0 in all three.

    The numbers come from torch's global generator, from which PyTorch already drew when it made the layers, as many
    numbers as their sizes require. A model therefore initializes its body before it makes its last layer: models that
    differ only in the last layer then have equal weights before it.

    Raises ValueError for any other scheme.
    """
    check_choice("init", scheme, SCHEMES)
    if scheme == "default":
        return
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            continue
        if scheme == "glorot":
            nn.init.xavier_uniform_(module.weight)
        else:
            # For a transposed convolution torch takes the output channels as fan-in. In a U-Net, which halves the
            # channels as it doubles the size, that gives half of He's variance, and no ReLU follows: it is left as
            # torch has it.
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
