"""The ledger of a download: what a killed process leaves, several parts, and size."""

import json

import pytest

from configs.errors import CommandFailed, UsageError
from pipelines.download.ledger import Ledger, ledger_path, read_ledger
from pipelines.download.lock import lock_file


def _write(path, *entries):
    with Ledger(path) as ledger:
        for entry in entries:
            ledger.add(*entry)


def test_last_entry_of_an_id_counts_and_older_ones_are_removed_at_the_next_start(tmp_path):
    path = ledger_path(tmp_path)
    _write(path, ("a", "retry", "later"))
    older = path.read_bytes()
    path.unlink()
    _write(path, ("b", "gone", "private"), ("a", "done", "", 7, "f" * 64))
    path.write_bytes(older + path.read_bytes())  # as a killed process leaves it
    assert {row_id: entry.status for row_id, entry in read_ledger(tmp_path).items()} == {"a": "done", "b": "gone"}
    _write(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["id"], line["status"], line["detail"], line["size_bytes"]) for line in lines] == [
        ("b", "gone", "private", 0),
        ("a", "done", "", 7),
    ]
    assert lines[1]["sha256"] == "f" * 64 and lines[1]["time"].endswith("+00:00")


@pytest.mark.parametrize(
    "left", [b"", b"{", b'{"id": "c", "status": "done"', b'{"id": "c", "status": "gone", "detail": ""}']
)
def test_unfinished_last_line_of_a_killed_process_is_dropped(tmp_path, left):
    path = ledger_path(tmp_path)
    _write(path, ("a", "done", "", 7), ("b", "retry"))
    whole = path.read_bytes()
    path.write_bytes(whole + left)
    assert set(read_ledger(tmp_path)) == {"a", "b"}
    _write(path, ("d", "gone"))
    assert path.read_bytes().startswith(whole) and set(read_ledger(tmp_path)) == {"a", "b", "d"}


def test_damage_in_the_middle_is_reported_with_its_line_and_nothing_is_lost(tmp_path):
    path = ledger_path(tmp_path)
    _write(path, ("a", "done", "", 7), ("b", "gone"))
    damaged = path.read_bytes().replace(b'"b"', b"b")
    path.write_bytes(damaged)
    with pytest.raises(CommandFailed, match="line 2 is not an entry"):
        Ledger(path)
    assert path.read_bytes() == damaged


def test_ledgers_of_all_parts_are_merged_and_done_wins(tmp_path):
    _write(ledger_path(tmp_path, 0, 2), ("a", "done", "", 7), ("b", "retry"), ("c", "gone"))
    _write(ledger_path(tmp_path, 1, 2), ("a", "gone"), ("b", "gone"), ("d", "not_here"))
    (tmp_path / "download-notes.jsonl").write_text("mine\n")
    merged = {row_id: entry.status for row_id, entry in read_ledger(tmp_path).items()}
    assert merged == {"a": "done", "b": "gone", "c": "gone", "d": "not_here"}


def test_a_second_process_is_refused_and_a_waiting_one_goes_on(tmp_path):
    with (
        lock_file(tmp_path / ".lock"),
        pytest.raises(UsageError, match="another command"),
        lock_file(tmp_path / ".lock"),
    ):
        pass
    with lock_file(tmp_path / ".lock", wait=True):
        pass
