"""Locks that hold between processes, and file systems on which they do not."""

import fcntl

import pytest

from tombola.engine.locks import check_locks, own_place
from tombola.engine.store import Store
from tombola.errors import TombolaError


def test_a_disk_whose_locks_hold(tmp_path):
    Store(tmp_path / "store").prepare()
    assert not list((tmp_path / "store" / "unfinished").iterdir())


@pytest.mark.parametrize("option", ["nolock", "localflock", "local_lock=all"])
def test_a_mount_whose_locks_hold_on_one_machine_alone(tmp_path, option):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs rw,vers=3,{option} 0 0\n")
    with pytest.raises(TombolaError, match=option):
        check_locks(tmp_path, mounts)
    mounts.write_text(f"/dev/a / ext4 rw,{option} 0 0\nserver:/x {tmp_path} nfs rw 0 0\n")
    check_locks(tmp_path, mounts)


def test_processes_begin_at_places_of_their_own(monkeypatch):
    """Sixty-four processes of one machine among a thousand stages: few at one place, all over."""
    places = []
    for pid in range(4000, 4064):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        places.append(own_place(1000))
    assert len(set(places)) > 56
    assert min(places) < 100
    assert max(places) >= 900


def test_a_file_system_that_gives_a_lock_twice_or_never(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(TombolaError, match="twice"):
        check_locks(tmp_path)

    def never(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", never)
    with pytest.raises(TombolaError, match="No locks available"):
        check_locks(tmp_path)
