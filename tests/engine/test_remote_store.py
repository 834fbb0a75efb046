"""A store at an address: a real S3 server on this machine (moto's), and storage that cannot refuse a second write."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tombola.engine.records import collect
from tombola.engine.remote import Leases, Remote
from tombola.engine.remote_store import RemoteStore
from tombola.engine.store import missing
from tombola.errors import TombolaError
from tombola.files import address_of
from tombola.metrics.columns import names
from tombola.study.stages import Outcome

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

TOMBOLA = [sys.executable, "-P", "-c", "from tombola.cli.app import main; main()"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The address of an empty bucket; processes of the tests find the server by their environment."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    said = tmp_path_factory.mktemp("s3") / "server.log"  # a pipe that nobody reads would fill up and stop the server
    with said.open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", "from moto.server import main; main(['-p0'])"], stderr=log)
    while not (found := re.search(r"Running on (\S+)", said.read_text())):
        assert server.poll() is None, said.read_text()
        time.sleep(0.05)
    there = found[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": there,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{there}/tombola", method="PUT"))
        yield "s3://tombola"
    server.kill()
    server.wait()


MACHINES = """
import os, sys
import torch, s3fs, tombola.cli.run, tombola.report
from tombola.cli.app import main

tombola.report.write_report = lambda records, study, out, **more: out  # no page: it takes as long as the trainings
study, address, *mirrors = sys.argv[1:]
pids = []
for mirror in mirrors:
    if not (pid := os.fork()):
        os.environ["TOMBOLA_CACHE"] = mirror
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["tombola", "run", study, "--out", address, "--jobs", "1"]
        main()
    pids.append(pid)
raise SystemExit(max(os.waitpid(pid, 0)[1] for pid in pids) > 0)
"""
"""Processes with mirrors of their own: forks, which do not import torch each time."""


def records(address):
    table = pd.read_parquet(fsspec.open(f"{address}/records.parquet").open())
    return table.drop(columns=list(names("timing")), errors="ignore").sort_values(["curve", "seed", "level"])


def test_addresses():
    assert address_of("s3://a/b") == address_of(Path("s3://a/b")) == "s3://a/b"
    assert address_of("runs/a") is None
    assert address_of(Path("/data/c:d/e")) is None
    with pytest.raises(TombolaError, match="nosuch"):
        Remote("nosuch://a")


def test_two_machines_divide_a_study(cli, tiny, run_plan, plan_of, s3, tmp_path):
    """Two processes with mirrors of their own: each stage is run once, and the records are those of a local store."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny | {"seeds": [0, 1]}))
    there = f"{s3}/two/tiny"
    command = [sys.executable, "-c", MACHINES, tmp_path / "tiny.yaml", there, tmp_path / "first", tmp_path / "second"]
    subprocess.run(command, check=True, timeout=120)
    store, _, _ = run_plan(plan := plan_of(tiny | {"seeds": [0, 1]}))
    remote = RemoteStore(f"{s3}/two/tombola-stages", tmp_path / "third")
    assert missing(plan, remote) == []
    ours, theirs = (collect(plan, one).drop(columns=list(names("timing")), errors="ignore") for one in (remote, store))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert not remote.remote.names("leases")
    assert len(remote.remote.names("tickets")) == len({name.split(".")[0] for name in remote.remote.names("tickets")})
    assert json.loads(cli("status", there, "--json").stdout)["stages_done"] == len(plan.stages)


@pytest.mark.slow
def test_a_killed_machine_is_taken_over(tiny, s3, tmp_path):
    raw = tiny | {"train": tiny["train"] | {"epochs": 300}, "checkpoint_seconds": 0.4}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(raw))
    command = [*TOMBOLA, "run", tmp_path / "tiny.yaml", "--out", f"{s3}/killed/tiny", "--jobs", "1"]
    first = subprocess.Popen(command, env=os.environ | {"TOMBOLA_CACHE": str(tmp_path / "a")}, stdout=subprocess.DEVNULL)
    remote = Remote(f"{s3}/killed/tombola-stages")
    while not remote.names("checkpoints"):
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert remote.names("leases")
    environment = os.environ | {"TOMBOLA_CACHE": str(tmp_path / "b")}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=120)
    subprocess.run([*TOMBOLA, "run", tmp_path / "tiny.yaml", "--out", tmp_path / "tiny", "--quiet"], check=True)
    expected = pd.read_parquet(tmp_path / "tiny" / "records.parquet")
    expected = expected.drop(columns=list(names("timing")), errors="ignore").sort_values(["curve", "seed", "level"])
    pd.testing.assert_frame_equal(records(f"{s3}/killed/tiny"), expected, check_exact=True)
    assert not remote.names("leases")


def test_the_second_one_to_finish_a_stage_takes_the_first_outcome(tiny, plan_of, run_plan, tmp_path, monkeypatch):
    monkeypatch.setattr("tombola.engine.remote._SETTLES", 0.01)  # storage in memory does not refuse a second write
    plan = plan_of(tiny)
    local, _, _ = run_plan(plan)
    address = f"memory://{tmp_path.name}/race"
    first, second = (RemoteStore(address, tmp_path / name) for name in "ab")
    first.prepare()
    stage = plan.stages[0]
    ticket = local.ticket(stage.key)
    run = {"seconds": 1.0, "device": "cpu", "torch": torch.__version__, "threads": 1}
    first.save(stage, Outcome(ticket, {"by": "first"}), run)
    second.prepare()
    second._listed.clear()
    second.save(stage, Outcome(ticket, {"by": "second"}), run)
    assert second.record(stage.key)["record"] == {"by": "first"}
    assert len(first.remote.names("tickets")) == 1
    second.ticket(stage.key)


def test_leases_expire_and_are_taken_over_once(tmp_path):
    remote = Remote(f"memory://{tmp_path.name}/leases")
    holder, *others = (Leases(remote, expires=0.2) for _ in range(4))
    assert holder.take("key")
    elsewhere = remote.get("leases/key.1").replace(str(os.getpid()).encode(), b"999999999", 1)
    remote.put("leases/key.1", elsewhere.replace(b'"host": "', b'"host": "other-'))
    assert not any(other.take("key") for other in others)
    time.sleep(0.3)
    assert [other.take("key") for other in others] == [True, False, False]
    others[0].give_back("key")
    assert not remote.names("leases")
    assert others[2].take("key")


def test_a_lease_that_is_given_back_while_another_looks_is_not_taken_over(tmp_path, monkeypatch):
    """A third one may have taken it anew meanwhile, which a next generation would not see."""
    remote = Remote(f"memory://{tmp_path.name}/gone")
    holder, other = Leases(remote), Leases(remote)
    assert holder.take("key")
    listed = remote.names("leases")
    holder.give_back("key")
    with monkeypatch.context() as patch:
        patch.setattr(remote, "names", lambda folder: listed)
        assert not other.take("key")
    assert other.take("key")


def test_a_holder_that_lives_is_left_alone(tmp_path):
    remote = Remote(f"memory://{tmp_path.name}/alive")
    holder, other = Leases(remote, expires=0.2), Leases(remote, expires=0.2)
    assert holder.take("key")
    for _ in range(4):
        assert not other.take("key")
        time.sleep(0.1)
        holder.renew()


def test_storage_that_cannot_refuse_a_second_write(tmp_path, monkeypatch):
    monkeypatch.setattr("tombola.engine.remote._SETTLES", 0.01)
    remote = Remote(f"memory://{tmp_path.name}/plain")
    pipe = remote._fs.pipe_file
    monkeypatch.setattr(remote._fs, "pipe_file", lambda path, data, mode="overwrite": pipe(path, data))
    remote.probe()
    assert remote.create("a", b"1")
    assert not remote.create("a", b"2")
    assert remote.get("a") == b"1"


def test_an_address_without_access_is_one_sentence(s3, tmp_path):
    with pytest.raises(TombolaError, match="s3://no-such-bucket"):
        RemoteStore("s3://no-such-bucket/stages", tmp_path).prepare()


class Weak(MemoryFileSystem):
    """Storage that writes an object again where it should refuse."""

    protocol, store, pseudo_dirs = "weak", {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("weak://"))

    def pipe_file(self, path, value, mode="overwrite", **more):
        return super().pipe_file(path, value, mode="overwrite", **more)


@pytest.mark.parametrize("probes", [0, 1, 2])
def test_an_object_is_created_once_however_often_the_storage_was_probed(probes, monkeypatch):
    """A worker of Ray never probes; a run of several studies does it for each."""
    monkeypatch.setattr("tombola.engine.remote._SETTLES", 0)
    fsspec.register_implementation("weak", Weak, clobber=True)
    writers = [Remote(f"weak://bucket/{probes}") for _ in range(2)]
    for writer in writers * probes:
        writer.probe()
    assert [writer.create("leases/k.1", name) for writer, name in zip(writers, (b"a", b"b"), strict=True)] == [True, False]


def test_a_failure_that_is_forgotten_is_forgotten_on_every_machine(tmp_path):
    one, other = (RemoteStore(f"memory://{tmp_path.name}/stages", tmp_path / name) for name in "ab")
    for store in (one, other):
        store.prepare()
    one.fail("k", "OSError: the disk was full")
    other._exchange()
    assert "the disk was full" in other.failure("k")[1]
    one.forget_failures(["k"])
    other = RemoteStore(f"memory://{tmp_path.name}/stages", tmp_path / "b")  # of a worker of the next run
    other._exchange()
    assert other.failure("k") == (0.0, "")


def test_a_lease_is_not_renewed_once_another_has_it(tmp_path, monkeypatch):
    """One machine gives its lease back while its thread renews it, and another takes it at once."""
    one, two, three = (Leases(Remote(f"memory://{tmp_path.name}")) for _ in range(3))
    assert one.take("k")
    put, back = one._remote.put, []

    def slow(name, data):
        if not back:
            back.append(threading.Thread(target=one.give_back, args=("k",)))
            back[0].start()
            back[0].join(0.1)
            two.take("k")
        put(name, data)

    monkeypatch.setattr(one._remote, "put", slow)
    one.renew()
    back[0].join()
    holders = [lease.take("k") for lease in (two, three)] if "k" not in two._held else [True, three.take("k")]
    assert holders == [True, False]
