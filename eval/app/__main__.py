"""A page in the browser that shows where a sound comes from: `python -m eval.app checkpoint=runs/demo`

Drop a video, or a picture and a sound; search an index of clips (index=DIR, of python -m eval.search); look at the
features of an image. The page is served to this machine only unless host= is set, and has no password. Uploads are
decoded in processes with limits, and deleted when the page is closed.
"""

import sys
from importlib.util import find_spec

from configs.cli import run
from configs.errors import UsageError
from configs.schema import AppConfig


def main(config: AppConfig) -> None:
    """Load the models, serve the page until Ctrl-C."""
    if not config.checkpoint:
        raise UsageError("checkpoint= is missing: give toy, a run folder, or an exported folder")
    if find_spec("gradio") is None:
        raise UsageError('eval.app needs gradio: pip install "denseav-trainer[app]"')
    if config.index and find_spec("lancedb") is None:
        raise UsageError('index= needs lancedb: pip install "denseav-trainer[search]"')
    from eval.app.server import serve

    serve(config)


if __name__ == "__main__":
    sys.exit(run(AppConfig, __doc__, main))
