"""A convolutional network for small images [C, H, W] that reaches its accuracy in few, large, fast steps.

After the ideas of Jordan 2024 (arXiv 2404.00498) and of Page's ResNet-9: a whitening first layer, wide 3x3 convolutions that
start near the identity, early pooling, norm layers without a scale, and a scaled head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError

from .parts import image, positive

_HEAD = 1 / 9  # scale of the logits: the head starts, and stays, less sure of itself
_MOMENTUM = 0.4  # of running statistics, in torch's convention: trainings are short
_AT_ONCE = 256  # images whose patches are in memory together
_ROUNDING = 1e-12  # of the squared mean: a variance below it is none
_FLOOR = 1e-4  # of the largest variance: directions below it are rounding, and keep less than unit variance


class Group(nn.Module):
    """Two 3x3 convolutions, each with batch norm and GELU; the first one's output is pooled before its norm."""

    def __init__(self, inputs: int, outputs: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(pool)
        self.norm1 = _shift_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _shift_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)))


class Fast(nn.Module):
    """Whitened patches, three groups of convolutions, the maximum over positions, one scaled linear layer. See `fast`."""

    def __init__(self, shape: tuple[int, int, int], outputs: int, width: int, noise: float):
        super().__init__()
        channels, height, breadth = shape
        pixels = 4 * channels
        self.whiten = nn.Conv2d(channels, 2 * pixels, 2)
        self.whiten.weight.requires_grad_(False)
        self._whiten(torch.eye(pixels), torch.zeros(pixels))
        size, inputs, groups = (height - 1, breadth - 1), 2 * pixels, []
        for factor in (1, 4, 4):
            pool = 2 if min(size) > 1 else 1
            groups.append(Group(inputs, factor * width, pool))
            size, inputs = (size[0] // pool, size[1] // pool), factor * width
        self.groups = nn.Sequential(*groups)
        self.pool = nn.MaxPool2d(size)
        self.classifier = nn.Linear(inputs, outputs, bias=False)
        for layer in self.groups.modules():
            if isinstance(layer, nn.Conv2d):
                near_identity(layer.weight, noise)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, outputs] of images [B, C, H, W]."""
        x = self.pool(self.groups(F.gelu(self.whiten(images))))
        return self.classifier(x.flatten(1)) * _HEAD

    def fit_first_layer(self, inputs: Tensor) -> None:
        """Whiten the 2x2 patches of `inputs` [N, C, H, W]: the first layer's outputs on them are uncorrelated.

        Half of its outputs have mean 0 and covariance I, where a direction has more than 1e-4 of the largest variance; the
        other half are their negatives. Computed in float64. Raises TombolaError if all patches are equal.
        """
        mean, covariance = patch_moments(inputs)
        variances, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance))  # the largest first
        if not variances[0] > _ROUNDING * mean.square().max():
            raise TombolaError("the first layer of fast is fitted to images whose 2x2 patches are all equal; give others")
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # eigh leaves the sign open
        self._whiten(axes.T / variances.clamp(min=_FLOOR * variances[0]).sqrt()[:, None], mean)

    @torch.no_grad()
    def _whiten(self, basis: Tensor, mean: Tensor) -> None:
        """Write a first layer whose outputs are `basis` [D, D] times the patch without its `mean` [D], and the negatives."""
        assert self.whiten.bias is not None
        self.whiten.weight.copy_(torch.cat([basis, -basis]).view_as(self.whiten.weight))
        self.whiten.bias.copy_(torch.cat([-basis @ mean, basis @ mean]))


def fast(input_shape: Sequence[int], outputs: int, width: int = 64, noise: float = 0.5) -> Fast:
    """Build the network of `width`, 4 `width` and 4 `width` channels; 1,972,792 parameters on 3 channels, 10 classes.

    The first layer is frozen: each 2x2 patch in a basis that whitens patches, and its negative. Which basis that is depends
    on the data, so `fit_first_layer` makes it; until then it is that of white images, the pixels themselves. Its bias is
    learned. Batch norm has a shift and no scale (a frozen 1). Convolutions start as the identity of their first channels
    plus torch's own draw times `noise`, and filters beyond their number of inputs as torch's own draw: 0 makes exact
    identities, which have no lottery in them. The head has no bias, and its outputs are divided by 9. Raises TombolaError
    for sizes below 1 and for no image.
    """
    shape = image(input_shape, "fast")
    positive("fast", width=width)
    if noise < 0:
        raise TombolaError(f"noise of fast is {noise}; it must be at least 0")
    return Fast(shape, outputs, width, noise)


@torch.no_grad()
def near_identity(weight: Tensor, noise: float) -> None:
    """Make each of the first filters of `weight` [outputs, inputs, k, k] pass its channel on, plus `noise` times itself."""
    filters = weight[: weight.shape[1]]
    filters.mul_(noise).add_(nn.init.dirac_(torch.empty_like(filters)))


def patch_moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [4 C] and covariance [4 C, 4 C] of all 2x2 patches of images [N, C, H, W], in float64.

    A patch is ordered as a convolution's weights are: channel, row, column. The covariance divides by the number of patches.
    """
    pixels = 4 * images.shape[1]
    total, products, count = torch.zeros(pixels).double(), torch.zeros(pixels, pixels).double(), 0
    for part in images.cpu().split(_AT_ONCE):
        patches = F.unfold(part.double(), 2).transpose(1, 2).flatten(0, 1)
        total += patches.sum(0)
        products += patches.T @ patches
        count += len(patches)
    mean = total / count
    return mean, products / count - mean.outer(mean)


def _shift_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm whose scale stays 1: a convolution of free scale follows."""
    norm = nn.BatchNorm2d(channels, momentum=_MOMENTUM)
    norm.weight.requires_grad_(False)
    return norm
