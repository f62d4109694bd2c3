"""What the events of the page share: running a job for a session, and ending the session."""

import hashlib
import html
from pathlib import Path
from typing import Any

import gradio

from eval.app.jobs import Job
from eval.app.pool import JobFailed, WorkerPool
from eval.app.temp_folder import TempFolder
from eval.app.worker import DISK_FULL

MIN_FREE_BYTES = 1_000_000


class Sessions:
    """Runs the jobs of the page's visitors.

    Args:
        pool: computes the jobs.
        folder: holds uploads and results.
    """

    def __init__(self, pool: WorkerPool, folder: TempFolder) -> None:
        self.pool, self.folder = pool, folder

    def note_uploads_of(self, component: Any) -> None:
        """Delete the uploads of an input component with their session."""

        def note(path: str | None, request: gradio.Request) -> None:
            if path:
                self.folder.add_upload(_session(request), path)

        component.change(note, [component], None, queue=False, api_visibility="private", show_progress="hidden")

    async def run(self, request: gradio.Request, job: Job) -> tuple[Path, dict[str, Any]]:
        """Run a job; returns the folder of its files, and its result.

        Raises:
            gradio.Error: with the message for the user.
        """
        session = _session(request)
        if not self.folder.has_room(MIN_FREE_BYTES):
            raise user_error(DISK_FULL)
        try:
            out = self.folder.new_folder(session)
            result = await self.pool.run(job, out, session)
        except JobFailed as error:
            raise user_error(str(error)) from None
        except OSError as error:
            raise user_error(f"The server cannot store the result: {error.strerror}.") from None
        return out, result

    def end(self, request: gradio.Request) -> None:
        """Cancel the jobs of a session and delete its files: the page was closed."""
        self.pool.cancel_session(_session(request))
        self.folder.close_session(_session(request))


def user_error(message: str) -> gradio.Error:
    """An error that the page shows; the message is not HTML."""
    return gradio.Error(html.escape(message), title="This did not work", print_exception=False)


def _session(request: gradio.Request) -> str:
    """A file name for the session; the client chooses the original."""
    return hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:32]
