"""Folders of Hugging Face models with their tickets."""

import json

import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

from tombola import TombolaError
from tombola.export import from_pretrained, save_pretrained

transformers = pytest.importorskip("transformers")


def bert(hidden=16):
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=20,
            hidden_size=hidden,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=12,
            num_labels=3,
        )
    )


@pytest.fixture
def saved(tmp_path):
    model = bert()
    ticket = random_ticket(model, 0.3, std=0.1)
    save_pretrained(ticket, model, tmp_path / "bert")
    return model, ticket, tmp_path / "bert"


def test_plain_transformers_loads_the_mean_and_tombola_the_ticket(saved):
    model, ticket, folder = saved
    tokens = {"input_ids": torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    module, same = from_pretrained(folder)
    assert not module.training
    assert type(module) is type(model)
    with torch.no_grad():
        expected = torch.func.functional_call(model.eval(), ticket.state_dict(model), (), tokens).logits
        torch.testing.assert_close(plain(**tokens).logits, expected)
        torch.testing.assert_close(module(**tokens).logits, expected)
    assert torch.equal(same.mask, ticket.mask)
    assert torch.equal(same.predict(module, tokens, samples=2).probs, ticket.predict(model, tokens, samples=2).probs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_folder_that_does_not_fit_is_refused(saved, tmp_path):
    model, ticket, folder = saved
    with pytest.raises(TombolaError, match=r"Linear is no model of transformers; save the ticket by ticket\.save"):
        save_pretrained(ticket, nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(TombolaError, match=r"parameter .* of BertForSequenceClassification has shape"):
        save_pretrained(ticket, bert(8), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(TombolaError, match=r"x has no config\.json; give a folder that"):
        from_pretrained(tmp_path / "x")
    random_ticket(model, 0.3, std=0.1, seed=1).save(folder / "ticket.safetensors")
    with pytest.raises(TombolaError, match=r"in .*bert is not the mean of its ticket; save model and ticket together anew"):
        from_pretrained(folder)
    about = json.loads((folder / "config.json").read_text())
    for names, said in (
        (["os.system"], "names the class 'os.system', which transformers lacks"),
        ([], "names no architecture"),
    ):
        (folder / "config.json").write_text(json.dumps(about | {"architectures": names}))
        with pytest.raises(TombolaError, match=said):
            from_pretrained(folder)
    (folder / "ticket.safetensors").unlink()
    with pytest.raises(TombolaError, match=r"has no ticket\.safetensors"):
        from_pretrained(folder)
