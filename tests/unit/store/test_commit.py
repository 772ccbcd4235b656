import errno
from pathlib import Path

import pytest

from stratascope.store._commit import stale_files, write_once, write_whole


def test_a_file_is_written_with_its_folders(tmp_path):
    write_whole(tmp_path / "a" / "b", b"content")

    assert (tmp_path / "a" / "b").read_bytes() == b"content"
    assert list(stale_files(tmp_path)) == []


@pytest.mark.parametrize("step", ["replace", "open"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt("stop")])
def test_a_write_that_fails_leaves_what_was(tmp_path, monkeypatch, step, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(type(error), match=str(error)):
            write_whole(path, b"new")

    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


def test_a_shared_file_is_written_once(tmp_path):
    path = tmp_path / "a" / "run.json"
    write_once(path, b"first")
    write_once(path, b"second")

    assert path.read_bytes() == b"first"


def test_two_that_write_a_shared_file_at_once_do_not_fail(tmp_path, monkeypatch):
    path, replace, swept = tmp_path / "run.json", Path.replace, []

    def sweep_first(temporary, target):
        # The other one takes this for what a killed run left.
        swept.append(temporary)
        if len(swept) <= 2:
            temporary.unlink()
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", sweep_first)
    write_once(path, b"content")

    assert len(swept) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE, errno.ENOSPC])
def test_a_shared_file_that_can_never_be_written_is_an_error(tmp_path, monkeypatch, code):
    tried = []

    def fail(*_):
        tried.append(1)
        raise OSError(code, "nowhere")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="nowhere"):
        write_once(tmp_path / "run.json", b"content")
    # A file that another one swept away may be there the next time; a full disk stays full.
    assert len(tried) == (1 if code == errno.ENOSPC else 10)
