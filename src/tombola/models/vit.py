"""SimpleViT: a vision transformer without class token (Beyer et al. 2022).

Legend: B images, N patches, D features of a patch, h heads, d features of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError

from .parts import image, positive


class Attention(nn.Module):
    """Self-attention after a layer norm; no biases."""

    def __init__(self, dim: int, heads: int, head: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head, bias=False)
        self.out = nn.Linear(heads * head, dim, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x_BND)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, N, d)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """One hidden layer with GELU after a layer norm."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x_BND))))


class Block(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, head: int, hidden: int):
        super().__init__()
        self.attention = Attention(dim, heads, head)
        self.mlp = MLP(dim, hidden)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attention(x_BND)
        return x_BND + self.mlp(x_BND)


class SimpleViT(nn.Module):
    """Patches, fixed positions, blocks, the mean over patches, one linear layer. See `vit`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        patch: int,
        depth: int,
        dim: int,
        heads: int,
        head: int,
        hidden: int,
        patch_norm: bool,
    ):
        super().__init__()
        channels, height, width = shape
        pixels = channels * patch**2
        self.patch = patch
        self.patch_norm = nn.LayerNorm(pixels) if patch_norm else nn.Identity()
        self.embed = nn.Linear(pixels, dim)
        self.embed_norm = nn.LayerNorm(dim) if patch_norm else nn.Identity()
        # not persistent: a constant, nothing that a ticket has to carry or a rewind to reset
        self.register_buffer("positions", sin_cos_positions(height // patch, width // patch, dim), persistent=False)
        self.positions: Tensor
        self.blocks = nn.Sequential(*(Block(dim, heads, head, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, outputs] of images [B, C, H, W]."""
        x_BND = self.embed_norm(self.embed(self.patch_norm(patches(images, self.patch))))
        x_BND = x_BND + self.positions
        return self.classifier(self.norm(self.blocks(x_BND)).mean(1))


def vit(
    dim: int,
    heads: int,
    input_shape: Sequence[int],
    outputs: int,
    depth: int = 6,
    patch: int = 4,
    head: int = 64,
    hidden: int | None = None,
    patch_norm: bool = False,
) -> SimpleViT:
    """Build a SimpleViT of `depth` blocks with `dim` features.

    `heads` heads of `head`, an MLP of `hidden` (by default 4 `dim`). Pre-norm, a norm after the last block, fixed sin-cos
    positions, mean pooling. patch_norm: layer norms before and after the embedding of patches too (Kumar et al. 2023),
    which remove brightness and contrast of each patch. Initialisation: torch's own for linear layers, which is Kaiming-
    uniform, U(-b, b) with b = 1/sqrt(fan_in). On 3x32x32 and 10 classes, dim 192 and 3 heads: depth 6 with patch 4 has
    2,676,298 parameters, depth 12 with patch 2 has 5,333,962. Raises TombolaError for a patch that does not divide the
    image.
    """
    shape = image(input_shape, "vit", least=1)
    positive("vit", heads=heads, depth=depth, patch=patch, head=head, hidden=hidden or 4 * dim)
    if dim < 8 or dim % 4:
        raise TombolaError(f"dim of vit is {dim}; it must be a multiple of 4 and at least 8, for the positions")
    if shape[1] % patch or shape[2] % patch:
        raise TombolaError(f"patch of vit is {patch}; it must divide the image's height {shape[1]} and width {shape[2]}")
    return SimpleViT(shape, outputs, patch, depth, dim, heads, head, hidden or 4 * dim, patch_norm)


def patches(images: Tensor, patch: int) -> Tensor:
    """Return patches [B, N, C * patch^2] of images [B, C, H, W], row by row; within a patch row, column, channel."""
    x = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, rows, patch, columns, patch)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def sin_cos_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Return [rows * columns, dim]: sine, cosine of column, then row, at dim / 4 frequencies of 1 to 1/10000."""
    k = torch.arange(dim // 4)
    frequency = 10_000.0 ** -(k / (dim // 4 - 1))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
