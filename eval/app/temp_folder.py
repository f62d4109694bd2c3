"""The app's own temporary folder: uploads and results, by session, deleted with the session, by age, and at exit."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "denseav-app-"
_LOCK = "lock"


class TempFolder:
    """A private folder with a folder for each session, which no other process of this kind uses.

    Args:
        parent: where it is made; empty: the system's folder for temporary files.
        max_bytes: `has_room` is False beyond this size.
    """

    def __init__(self, parent: str, max_bytes: int) -> None:
        parent = parent or tempfile.gettempdir()
        _remove_abandoned(Path(parent))
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        self._lock_file = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        self.max_bytes = max_bytes
        self.uploads, self._sessions = self.root / "uploads", self.root / "uploads" / "sessions"
        self._sessions.mkdir(parents=True)
        self._uploads_of: dict[str, set[Path]] = {}
        self._permanent: set[Path] = set()
        self._lock = threading.Lock()

    def new_folder(self, session: str) -> Path:
        """An empty folder for a job of a session."""
        parent = self._sessions / session
        parent.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=parent))

    def add_upload(self, session: str, path: str | Path) -> None:
        """Delete an uploaded file with the last of the sessions that use it (equal files are stored once)."""
        path = Path(path).resolve()
        if path not in self._permanent and path.is_relative_to(self.uploads):
            with self._lock:
                self._uploads_of.setdefault(session, set()).add(path)

    def keep_present_files(self) -> None:
        """Never delete the files that are in the folder now, such as examples."""
        self._permanent = {path for path in self.uploads.rglob("*") if path.is_file()}

    def close_session(self, session: str) -> None:
        """Delete the results of a session, and the uploads that no other session uses."""
        with self._lock:
            own = self._uploads_of.pop(session, set())
            for path in own.difference(*self._uploads_of.values()):
                _delete(path)
        shutil.rmtree(self._sessions / session, ignore_errors=True)

    def delete_older_than(self, age_s: float) -> None:
        """Delete files that were last changed more than `age_s` seconds ago."""
        oldest = time.time() - age_s
        for path in list(self.uploads.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file() and path not in self._permanent and path.stat().st_mtime < oldest:
                    _delete(path)

    def has_room(self, size_bytes: int) -> bool:
        """Whether an upload fits: into `max_bytes`, and on the disk."""
        return self.used_bytes() + size_bytes <= self.max_bytes and shutil.disk_usage(self.root).free > size_bytes

    def used_bytes(self) -> int:
        """Size of all files."""
        total = 0
        for path in list(self.uploads.rglob("*")):
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if not path.is_dir() else 0
        return total

    def remove(self) -> None:
        """Delete the folder."""
        self._lock_file.close()
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def temp_folder(parent: str, max_bytes: int) -> Iterator[TempFolder]:
    """A TempFolder, deleted at the end. Temporary files of this process and its children are in it meanwhile."""
    folder = TempFolder(parent, max_bytes)
    try:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder.root)
        yield folder
    finally:
        tempfile.tempdir = None
        folder.remove()


def _delete(path: Path) -> None:
    """Delete a file and, if it was the last one, its folder."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


def _remove_abandoned(parent: Path) -> None:
    """Delete the folders of servers that were killed: nobody holds their lock."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open("r") as lock:
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
