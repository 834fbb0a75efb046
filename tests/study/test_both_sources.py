"""Keys of stages have the source of a user's net and of a user's data."""

from tombola import plugins
from tombola.settings import DataSettings, ModelSettings
from tombola.study.stages.base import Net, Source


def test_neither_source_hides_the_other(monkeypatch):
    monkeypatch.setattr(plugins, "source_digest", lambda name, known: f"digest of {name}")
    net = Net(ModelSettings(name="mine:net"), (3, 8, 8), 10).describe()
    data = Source(DataSettings(name="mine:data"), "f00").describe()
    assert not net.keys() & data.keys()
    assert {"digest of mine:net", "digest of mine:data"} <= {*net.values(), *data.values()}
