"""Whole files and folders: a reader sees what was there or what is there now, and a failure leaves nothing behind."""

from __future__ import annotations

import os

import pytest

from etacore import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with files.whole_file(path) as draft:
        draft.write_bytes(b"new")
        assert (path.read_bytes(), draft.parent) == (b"old", tmp_path)
    assert path.read_bytes() == b"new"
    files.write_whole(path, b"newer")
    assert (path.read_bytes(), names(tmp_path)) == (b"newer", ["a.json"])


@pytest.mark.parametrize("step", ["sync_file", "os.replace", "the caller"])
def test_what_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    if step == "os.replace":
        monkeypatch.setattr(os, "replace", fail)
    elif step == "sync_file":
        monkeypatch.setattr(files, step, fail)

    def write():
        with files.whole_file(path) as draft:
            draft.write_bytes(b"new")
            if step == "the caller":
                fail()

    with pytest.raises(OSError, match="No space"):
        write()
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["a.json"])


@pytest.mark.parametrize(("synced", "n_syncs"), [(True, 2), (False, 0)])
def test_content_and_name_are_on_disk_unless_nobody_waits_for_it(tmp_path, monkeypatch, synced, n_syncs):
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(real(fd)))
    with files.whole_file(tmp_path / "a", synced=synced) as draft:
        draft.write_bytes(b"x")
    assert (len(calls), (tmp_path / "a").read_bytes()) == (n_syncs, b"x")


def test_a_folder_takes_the_place_of_the_old_one_and_goes_as_a_whole(tmp_path):
    files.write_folder(tmp_path / "k", {"one": b"1", "two": b"2"})
    files.write_folder(tmp_path / "k", {"one": b"1"})
    assert (names(tmp_path), names(tmp_path / "k")) == (["k"], ["one"])
    files.link_folder(tmp_path / "k", tmp_path / "l")
    files.link_folder(tmp_path / "absent", tmp_path / "m")
    assert ((tmp_path / "l" / "one").read_bytes(), names(tmp_path)) == (b"1", ["k", "l"])
    files.delete_folder(tmp_path / "k")
    files.delete_folder(tmp_path / "k")
    assert names(tmp_path) == ["l"]


def test_what_dead_writers_left_is_found_and_swept_away(tmp_path):
    (tmp_path / ".tmp-1-ab").mkdir()
    (tmp_path / ".tmp-1-ab" / "half").write_bytes(b"")
    for name in (".registry.json.1.2.partial", ".registry.json.new", "kept.json", ".lock"):
        (tmp_path / name).write_bytes(b"")
    found = [path.name for path in files.leftovers(tmp_path)]
    assert found == [".registry.json.1.2.partial", ".registry.json.new", ".tmp-1-ab"]
    files.sweep(tmp_path)
    assert names(tmp_path) == [".lock", "kept.json"]
