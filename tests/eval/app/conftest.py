"""A running page with a tiny model, for all tests of this folder."""

import pytest
from tiny_app import Visitor, tiny_app
from tiny_media import write_video


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    limits = ("max_duration_s=30", "max_megapixels=1", "memory_gb=2", "max_file_mb=5")
    with tiny_app(tmp_path_factory.mktemp("app"), *limits) as app:
        yield app


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", events_s=(0.5, 1.5), size_px=(160, 120))


@pytest.fixture
def visitor(app):
    return Visitor(app)
