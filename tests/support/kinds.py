"""Kinds of models, batches, outputs and likelihoods that a user may come with: each small, with a few batches of data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola import NextToken
from tombola.posterior.batch import logits_of
from tombola.streams import generator, global_stream

B = 8  # examples of a batch


@dataclass(frozen=True)
class Kind:
    """What is given to the library."""

    make: Callable[[], nn.Module]
    batches: Callable[[], list]
    shape: tuple[int, ...]
    """Of the logits of one batch."""
    likelihood: Any = None
    select: Callable[[Any], Tensor] = logits_of
    random: list[str] | None = None
    include: tuple[str, ...] = ()

    def module(self) -> nn.Module:
        with global_stream("kinds"):
            return self.make()


def _classes() -> list[tuple[Tensor, Tensor]]:
    stream = generator("classes")
    inputs = torch.randn(3, B, 6, generator=stream)
    return [(x, x[:, :3].argmax(-1)) for x in inputs]


def _tokens() -> Tensor:
    return torch.randint(3, 20, (3, B, 5), generator=generator("tokens"))


# Hugging Face: random weights from small configurations, nothing is downloaded


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
        )
    )


def _images() -> list[dict[str, Tensor]]:
    stream = generator("images")
    return [{"pixel_values": torch.randn(B, 1, 8, 8, generator=stream), "labels": y} for _, y in _classes()]


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=8,
            num_labels=3,
        )
    )


def _encodings() -> list:
    from transformers import BatchEncoding

    mask = torch.ones(B, 5, dtype=torch.long)
    mask[1, 3:] = 0
    return [BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 3}) for ids in _tokens()]


def _gpt2(name: str) -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=20,
        n_positions=8,
        n_embd=16,
        n_layer=1,
        n_head=2,
        num_labels=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return getattr(transformers, name)(config)


def _sentences() -> list[dict[str, Tensor]]:
    batches = []
    for ids in _tokens():
        labels = ids.clone()
        labels[2, 3:] = -100
        batches.append({"input_ids": ids, "labels": labels})
    return batches


# modules of one's own


class Dropped(nn.Module):
    """Dropout, as a layer and as a function; batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.dropout(self.drop(self.norm(self.first(x))).relu(), 0.2, self.training))


class Tied(nn.Module):
    """A decoder that is its encoder transposed, and one block that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False), nn.Linear(20, 3)
        self.block = nn.Linear(16, 16)
        self.again = self.block
        self.decode.weight = self.encode.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.again(self.block(self.encode(ids).mean(1)).relu()).relu()
        return self.head(self.decode(hidden))


class Mixed(nn.Module):
    """bfloat16 in the middle, float32 around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 16), nn.Linear(16, 16).bfloat16(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).relu().bfloat16()).relu().float())


class Two(nn.Module):
    """Two inputs; the second by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.last((self.left(left) - self.right(right)).relu())


class Attending(nn.Module):
    """torch's own transformer, which in evaluation takes another path through fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 16), nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


@dataclass
class Answer:
    """An object with logits."""

    logits: Tensor
    hidden: Tensor


@dataclass
class Normal:
    """An object without logits."""

    mean: Tensor
    log_std: Tensor


class Answering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Answer:
        hidden = self.body(x).relu()
        return Answer(self.head(hidden), hidden)


class Heteroscedastic(nn.Module):
    """Mean and log std of a real target."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Normal:
        mean, log_std = self.head(self.body(x).tanh()).unbind(-1)
        return Normal(mean, log_std)


def heteroscedastic(output: Normal, batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.distributions.Normal(output.mean, output.log_std.exp()).log_prob(batch[1])


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 5.0])


def class_weighted(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -F.cross_entropy(output, batch[1], weight=CLASS_WEIGHTS, reduction="none")


def _ids() -> list[tuple[Tensor, Tensor]]:
    return [(ids, ids[:, 0] % 3) for ids in _tokens()]


def _two_inputs(kind: str) -> list:
    if kind == "tuple":
        return [((x[:, :4], x[:, 4:]), y) for x, y in _classes()]
    return [{"left": x[:, :4], "right": x[:, 4:], "labels": y} for x, y in _classes()]


def _reals() -> list[tuple[Tensor, Tensor]]:
    return [(x, x[:, 0].sin()) for x, _ in _classes()]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


HUGGING_FACE = {
    "vit": Kind(_vit, _images, (B, 3)),
    "bert": Kind(_bert, _encodings, (B, 3)),
    "gpt2": Kind(lambda: _gpt2("GPT2LMHeadModel"), _sentences, (B, 5, 20), NextToken()),
    "gpt2-classifier": Kind(
        lambda: _gpt2("GPT2ForSequenceClassification"),
        lambda: [{"input_ids": x, "labels": x[:, 0] % 3} for x in _tokens()],
        (B, 3),
    ),
}
OWN = {
    "dropout": Kind(Dropped, _classes, (B, 3)),
    "tied": Kind(Tied, _ids, (B, 3)),
    "attention": Kind(Attending, _ids, (B, 3)),
    "recurrent": Kind(Recurrent, _ids, (B, 3), random=["*"], include=("rnn.weight*",)),
    "mixed-dtypes": Kind(Mixed, _classes, (B, 3)),
    "two-inputs": Kind(Two, lambda: _two_inputs("tuple"), (B, 3)),
    "dict-batches": Kind(Two, lambda: _two_inputs("mapping"), (B, 3)),
    "object-with-logits": Kind(Answering, _classes, (B, 3)),
    "object-without-logits": Kind(Heteroscedastic, _reals, (B,), heteroscedastic, lambda output: output.mean),
    "class-weights": Kind(_mlp, _classes, (B, 3), class_weighted),
}
KINDS = HUGGING_FACE | OWN
