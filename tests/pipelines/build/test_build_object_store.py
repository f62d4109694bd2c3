"""Builds into an object store give the shards of a build on disk; errors of the store are one line."""

import re

import pytest
import s3fs
from tiny_builds import build, contents, interrupt, running, start, wait, write_long_media
from tiny_s3 import serve_s3

from pipelines.storage import open_folder, read


@pytest.fixture(scope="module")
def s3():
    """A bucket named `bucket`; endpoint and credentials are in the environment."""
    with serve_s3("bucket") as environment, pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        yield


def _remote_contents(address: str) -> dict[str, bytes]:
    folder = open_folder(address)
    return {name: read(folder, name) for name in folder.sizes() if name != "stats.json"}


@pytest.mark.usefixtures("s3")
@pytest.mark.slow
def test_killed_build_into_an_object_store_resumes_to_the_same_shards(media, built_files, tmp_path, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("t")  # a short path, for sockets
    env = {"TMPDIR": str(temporary)}
    address, first, _ = interrupt(
        lambda address: start(media, address, "processes=2", env=env),
        [f"s3://bucket/{tmp_path.name}-{attempt}" for attempt in range(5)],
        lambda address: len(open_folder(address).sizes("train-*.json")) >= 2,
    )
    wait(lambda: not running(first))
    assert "manifest.json" not in open_folder(address).sizes()
    done = build(media, address, "processes=2", env=env)
    assert done.returncode == 0 and f"{address} is complete" in done.stdout, done.stderr
    assert _remote_contents(address) == built_files
    assert not [path for path in temporary.iterdir() if not path.name.startswith("pymp-")]
    again = build(media, address, "processes=2", env=env)
    assert again.returncode == 0 and again.stdout == done.stdout


@pytest.mark.usefixtures("s3")
@pytest.mark.slow
def test_slices_share_an_object_store(media, built_files, tmp_path):
    address = f"s3://bucket/{tmp_path.name}"
    slices = [start(media, address, "executor=slice", f"slice={part}/2") for part in (0, 1)]
    for process in slices:
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 0, printed
    assert build(media, address, "executor=slice", "slice=finish").returncode == 0
    assert _remote_contents(address) == built_files


def test_file_address_is_a_local_folder(media, built_files, tmp_path):
    assert build(media, f"file://{tmp_path}/out").returncode == 0
    assert contents(tmp_path / "out") == built_files


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("address", "code", "expected"),
    [
        ("s3://no-such-bucket/set", 2, "s3://no-such-bucket/set is not writable; does the bucket exist"),
        ("foo://x", 2, "foo://x: Protocol not known: foo"),
        ("gs://bucket/set", 2, "gs://bucket/set: Please install gcsfs"),
    ],
)
def test_unwritable_address_is_a_one_line_error(media, address, code, expected):
    done = build(media, address)
    assert done.returncode == code and expected in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("s3")
def test_unreachable_store_is_a_one_line_error_of_the_command(media):
    done = build(media, "s3://bucket/set", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    assert done.returncode == 1 and "http://127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_store_lost_during_a_build_is_a_one_line_error_and_leaves_no_process(tmp_path):
    long_media = write_long_media(tmp_path)
    with serve_s3("bucket") as environment:
        process = start(long_media, "s3://bucket/set", env={**environment, "AWS_MAX_ATTEMPTS": "1"})
        fs = s3fs.S3FileSystem(
            key=environment["AWS_ACCESS_KEY_ID"],
            secret=environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        wait(lambda: fs.exists("bucket/set/train-000000.json"), seconds=60)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in printed
    assert re.search(r"^error: s3://bucket/set.*run the same command again$", printed, re.MULTILINE), printed
    wait(lambda: not running(process))
