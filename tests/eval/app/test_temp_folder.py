"""The app's temporary folder: what is deleted when, and how much fits."""

import os
import subprocess
import sys
import time

import pytest
from paths import ROOT

from eval.app.temp_folder import PREFIX, TempFolder, temp_folder


@pytest.fixture
def folder(tmp_path):
    folder = TempFolder(str(tmp_path), max_bytes=1000)
    yield folder
    folder.remove()


def _upload(folder, name, content=b"x" * 100):
    path = folder.uploads / name / "clip.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_end_of_a_session_deletes_its_results_and_the_uploads_that_no_other_session_uses(folder):
    own, shared = _upload(folder, "a"), _upload(folder, "b")
    for session, path in (("ann", own), ("ann", shared), ("bob", shared)):
        folder.add_upload(session, path)
    results = [folder.new_folder(session) for session in ("ann", "bob")]
    folder.close_session("ann")
    assert not own.parent.exists() and shared.exists() and [path.exists() for path in results] == [False, True]
    folder.close_session("bob")
    assert not shared.exists() and not results[1].exists()


def test_files_outside_the_folder_are_never_deleted(folder, tmp_path):
    outside = tmp_path / "mine.mp4"
    outside.write_bytes(b"x")
    folder.add_upload("ann", outside)
    folder.add_upload("ann", folder.uploads / ".." / ".." / "mine.mp4")
    folder.close_session("ann")
    assert outside.exists()


def test_old_files_are_deleted_but_examples_stay(folder):
    example = _upload(folder, "example")
    folder.keep_present_files()
    old, fresh = _upload(folder, "old"), _upload(folder, "fresh")
    for path in (example, old):
        os.utime(path, (time.time() - 100,) * 2)
    folder.add_upload("ann", example)
    folder.delete_older_than(50.0)
    folder.close_session("ann")
    assert example.exists() and fresh.exists() and not old.exists()


def test_room_ends_at_the_maximum_size(folder):
    assert folder.has_room(1000) and not folder.has_room(1001)
    _upload(folder, "a")
    assert folder.used_bytes() == 100 and folder.has_room(900) and not folder.has_room(901)


def test_temporary_files_of_the_process_are_in_the_folder_and_all_is_deleted_at_the_end(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temp_folder(str(tmp_path), 1000) as folder, tempfile.NamedTemporaryFile() as file:
        assert file.name.startswith(str(folder.root)) and folder.root.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_server_is_deleted_by_the_next_one_but_not_that_of_a_running_one(tmp_path):
    code = f"""
import os, sys
from eval.app.temp_folder import TempFolder
folder = TempFolder({str(tmp_path)!r}, 1)
print(folder.root, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    name = process.stdout.readline().strip()
    second = TempFolder(str(tmp_path), 1)
    assert {path.name for path in tmp_path.glob(f"{PREFIX}*")} == {name.rpartition("/")[2], second.root.name}
    process.kill()
    process.communicate()
    third = TempFolder(str(tmp_path), 1)
    assert {path.name for path in tmp_path.iterdir()} == {second.root.name, third.root.name}
    second.remove(), third.remove()
