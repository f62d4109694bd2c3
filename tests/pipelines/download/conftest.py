"""Fixtures of the tests of downloads: videos and the server that offers them."""

import pytest
from media_server import serve_media
from tiny_download import write_source


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder with videos."""
    folder = tmp_path_factory.mktemp("www")
    write_source(folder)
    return folder


@pytest.fixture
def server(media):
    """A web server for this folder."""
    with serve_media(media) as server:
        yield server
