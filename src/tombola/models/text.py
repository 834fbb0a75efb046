"""A small transformer over the bytes of short texts.

Legend: B texts, T bytes of a text, D features, h heads, d features of a head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError

from .parts import positive
from .vit import MLP

PADDING = 0
"""Byte that pads a text: it is seen by no other and counts for nothing."""


class MaskedAttention(nn.Module):
    """Self-attention after a layer norm, to the bytes that are no padding; no biases."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BTD: Tensor, is_text_BT: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x_BTD)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, T, d)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=is_text_BT[:, None, None, :])
        return self.out(y.transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """Masked attention and MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.attention = MaskedAttention(dim, heads)
        self.mlp = MLP(dim, hidden)

    def forward(self, x_BTD: Tensor, is_text_BT: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(x_BTD, is_text_BT)
        return x_BTD + self.mlp(x_BTD)


class TextTransformer(nn.Module):
    """Embedded bytes with learned positions, blocks, the mean over the text, one linear layer. See `text`."""

    def __init__(self, length: int, outputs: int, dim: int, heads: int, depth: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(256, dim)
        self.positions = nn.Embedding(length, dim)
        self.blocks = nn.ModuleList(TextBlock(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, outputs)

    def forward(self, bytes_BT: Tensor) -> Tensor:
        """Return logits [B, outputs] of texts [B, T], numbers 0 to 255 of any dtype, 0 where padded.

        A text of padding alone is read as one byte 0.
        """
        bytes_BT = bytes_BT.long()
        is_text_BT = bytes_BT != PADDING
        first_T = torch.arange(bytes_BT.shape[1], device=bytes_BT.device) == 0
        is_text_BT = is_text_BT | (first_T & ~is_text_BT.any(1, keepdim=True))  # attention to nothing would be NaN
        x_BTD = self.embed(bytes_BT) + self.positions.weight[: bytes_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD, is_text_BT)
        share_BT = is_text_BT / is_text_BT.sum(1, keepdim=True)
        return self.classifier((self.norm(x_BTD) * share_BT[..., None]).sum(1))


def text(
    input_shape: Sequence[int], outputs: int, dim: int = 48, heads: int = 3, depth: int = 2, hidden: int | None = None
) -> TextTransformer:
    """Build a pre-norm transformer encoder over the bytes of texts [T], as of data `words`.

    `depth` blocks of `heads` heads with `dim` features in all, an MLP of `hidden` (by default 2 `dim`). Padding (byte 0)
    changes no logit. Initialisation: torch's own. At 16 bytes and 3 classes 50,835 parameters. Raises TombolaError for
    inputs that are no texts and for heads that do not divide `dim`.
    """
    if len(input_shape) != 1:
        raise TombolaError(f"text takes the bytes of texts [T]; the data has inputs of shape {list(input_shape)}")
    positive("text", dim=dim, heads=heads, depth=depth, hidden=hidden or 2 * dim)
    if dim % heads:
        raise TombolaError(f"heads of text is {heads}; it must divide dim, {dim}")
    return TextTransformer(input_shape[0], outputs, dim, heads, depth, hidden or 2 * dim)
