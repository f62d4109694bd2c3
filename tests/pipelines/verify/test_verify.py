"""Verify reports nothing about an intact data set, one line for each damage, and exit codes."""

import subprocess
import sys
import tarfile

import fsspec
import pytest
from paths import ROOT
from tiny_verify import INDEX, TAR, edit_json, flip_bit, verify

from configs.errors import UsageError
from configs.schema import VerifyConfig
from pipelines.verify import main


def test_intact_data_set_has_no_damage(out, capsys):
    assert verify(out, capsys) == (0, [])


def test_files_of_other_commands_are_not_damage(out, capsys):
    (out / ".index").mkdir()
    (out / ".index/x.npy").write_bytes(b"x")
    assert verify(out, capsys) == (0, [])


def test_leftovers_of_killed_writers_are_not_damage(out, capsys):
    (out / f".{TAR}.host-1.tmp").write_bytes(b"half a tar")
    (out / ".manifest.json.tmp").write_bytes(b"{")
    (out / ".scratch-abc").mkdir()
    (out / ".scratch-abc" / "other.tar").write_bytes(b"x")
    assert verify(out, capsys) == (0, [])


def test_data_set_of_format_1_needs_no_fingerprints_of_rejected_media(out, capsys):
    for index in out.glob("train-*.json"):
        edit_json(index, lambda i: i.pop("media_of_rejected"))
    edit_json(out / "manifest.json", lambda m: m.update(format=1))
    assert verify(out, capsys) == (0, [])


def test_several_damages_are_reported_in_a_deterministic_order(out, capsys):
    (out / "train-000000.tar").unlink()
    flip_bit(out / TAR, 5000)
    edit_json(out / INDEX, lambda i: i["members"].append(i["members"][0]))
    (out / "rejected.jsonl").unlink()
    results = [verify(out, capsys) for _ in range(3)]
    assert results[0] == results[1] == results[2]
    starts = ["train-000000.tar is", f"{INDEX} lists", f"the SHA-256 of {TAR}", "rejected.jsonl cannot", "duplicate id"]
    assert all(line.startswith(start) for line, start in zip(results[0][1], starts, strict=True))


def test_damages_of_one_shard_are_limited_to_twenty_lines(out, capsys):
    (out / TAR).write_bytes((out / "train-000000.tar").read_bytes())
    edit_json(out / INDEX, lambda i: i["members"][0]["files"].update({f"{n}.npy": [0, 5] for n in range(100)}))
    _, lines = verify(out, capsys)
    assert len(lines) < 30 and any("more problems of train-000001" in line for line in lines)


def test_unreadable_index_reports_no_rejected_clips(out, capsys):
    (out / INDEX).unlink()
    code, lines = verify(out, capsys)
    assert code == 1 and [line.split(":")[0] for line in lines] == [f"{INDEX} cannot be read"]


@pytest.mark.parametrize("address", ["{}/none", "file://{}/none", "memory://{}/none", "{}/out/manifest.json"])
def test_missing_folder_is_a_usage_error(out, address):
    with pytest.raises(UsageError, match="no such folder of shards"):
        main(VerifyConfig(), address.format(out.parent))


def test_folder_without_shards_is_a_usage_error_without_advice_to_remove_files(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"not a folder of shards, it contains neither manifest\.json nor a \.tar"):
        main(VerifyConfig(), str(tmp_path))


def test_unsupported_address_is_a_usage_error():
    with pytest.raises(UsageError, match="nosuch"):
        main(VerifyConfig(), "nosuch://bucket/train")


def test_remote_folder_is_verified_like_a_local_one(out, capsys):
    fs = fsspec.filesystem("memory")
    fs.put(f"{out}/", "/verify", recursive=True)
    assert main(VerifyConfig(threads=3), "memory://verify") == 0
    assert main(VerifyConfig(), f"file://{out}") == 0
    for length in (0, 1000, 5000, (out / TAR).stat().st_size - 1):
        fs.pipe(f"/verify/{TAR}", (out / TAR).read_bytes()[:length])
        assert main(VerifyConfig(), "memory://verify") == 1
    fs.rm(f"/verify/{TAR}")
    capsys.readouterr()
    assert main(VerifyConfig(), "memory://verify") == 1
    assert f"{TAR} is missing" in capsys.readouterr().out


def test_large_tar_is_verified_in_bounded_memory(out):
    with tarfile.open(out / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("x.jpg")
        member.size = 1 << 28
        with open("/dev/zero", "rb") as zeros:  # noqa: PTH123
            tar.addfile(member, zeros)
    code = (
        "import sys; from configs.schema import VerifyConfig; from pipelines.verify import main\n"
        "main(VerifyConfig(), sys.argv[1])\n"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, capture_output=True, text=True)
    assert f"{TAR} contains x.jpg, which" in done.stdout
    assert int(done.stdout.split()[-1]) < 150_000  # KiB


def test_command_exits_with_0_1_or_2(out):
    def code(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "pipelines.verify", *arguments], cwd=ROOT, capture_output=True
        ).returncode

    assert code(str(out)) == 0
    (out / TAR).unlink()
    assert code(str(out)) == 1
    assert code() == 2
