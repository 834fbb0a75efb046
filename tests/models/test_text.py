"""The transformer over bytes: padding, shapes, what is refused; it learns, and a ticket of it stays sparse."""

import pytest
import torch

from tombola import find_tickets
from tombola.errors import TombolaError
from tombola.models import build
from tombola.posterior.state import layout_of
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings


def made(length=12, outputs=3, **args):
    return build("text", {"dim": 8, "heads": 2, "depth": 1} | args, (length,), outputs, ("text",)).eval()


def texts(n=6, length=12, seed=0):
    stream = torch.Generator().manual_seed(seed)
    ends = torch.randint(3, length + 1, (n, 1), generator=stream)
    letters = torch.randint(97, 123, (n, length), generator=stream)
    return letters.where(torch.arange(length) < ends, 0).to(torch.uint8)


def test_padding_changes_no_logit_and_what_is_under_it_neither():
    module, x = made(), texts()
    logits = module(x)
    for i, row in enumerate(x):
        alone = row[row != 0][None]
        assert torch.allclose(module(alone), logits[i : i + 1], atol=1e-6)
    with torch.no_grad():
        module.embed.weight[0] += 100
    assert torch.equal(module(x), logits)


def test_order_counts_and_a_text_of_padding_alone_is_finite():
    module, x = made(), texts()
    x[:, :3] = torch.tensor([97, 98, 99])
    turned = x.clone()
    turned[:, :3] = torch.tensor([99, 98, 97])
    assert not torch.allclose(module(x), module(turned))
    assert module(torch.zeros(2, 12)).isfinite().all()


def test_every_parameter_learns_and_its_size_is_that_of_its_parts():
    module = made(length=12, dim=8, heads=2, depth=1, hidden=20)
    module(texts()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    block = 2 * 8 + 8 * 24 + 64 + 2 * 8 + (8 * 20 + 20) + (20 * 8 + 8)
    assert sum(p.numel() for p in module.parameters()) == 256 * 8 + 12 * 8 + block + 2 * 8 + (8 * 3 + 3)


def test_a_ticket_tells_letters_apart():
    """Two languages, of the first and of the second half of the alphabet."""
    x = texts(400)
    labels = torch.arange(400) % 2
    x = torch.where(x == 0, x, (x.long() - 97) % 13 + 97 + 13 * labels[:, None]).to(torch.uint8)
    settings = TrainSettings(epochs=6, batch_size=32, lr=0.01, heat=0.01)
    prune, posterior = PruneSettings(fraction=0.5, levels=1), PosteriorSettings(std=0.01)
    module = made(outputs=2).train()
    found = find_tickets(module, (x, labels), train=settings, prune=prune, posterior=posterior, progress=False)
    ticket = found[-1]
    probs = ticket.predict(made(outputs=2), x, samples=4).probs
    assert (probs.argmax(1) == labels).double().mean() > 0.95
    assert ticket.density == pytest.approx(0.5, abs=0.01)
    layout = layout_of(made(), PosteriorSettings(), PruneSettings())
    assert any("embed" in segment.name for segment in layout.segments)


@pytest.mark.parametrize(
    ("shape", "args", "words"),
    [
        ((1, 8, 8), {}, r"text takes the bytes of texts \[T\]"),
        ((8,), {"dim": 9, "heads": 2}, "heads of text is 2; it must divide dim, 9"),
        ((8,), {"depth": 0}, "depth of text is 0"),
    ],
)
def test_what_is_no_text_is_refused(shape, args, words):
    with pytest.raises(TombolaError, match=words):
        build("text", args, shape, 3, ("text",))
