"""Golden cases of the reference: ours agree, deviations are misses, files that are not cases are refused."""

import json
import re
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from configs.errors import UsageError
from configs.schema import NoSettings
from eval.parity.__main__ import main
from eval.parity.cases import check_case, check_folder

GOLDEN = ROOT / "tests" / "golden"


def _case(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as stored:
        return stored.metadata()["case"]


def _copy(name, folder, **changed):
    """A golden case with some of its tensors changed."""
    tensors = load_file(GOLDEN / f"{name}.safetensors") | changed
    save_file(tensors, folder / f"{name}.safetensors", metadata={"case": _case(name)})
    return folder / f"{name}.safetensors"


CASES = [
    pytest.param(file, marks=pytest.mark.slow if "released" in file.name else (), id=file.stem)
    for file in sorted(GOLDEN.rglob("*.safetensors"))
]


@pytest.mark.parametrize("file", CASES)
def test_golden_case_agrees(file):
    outcome = check_case(file)
    assert outcome.verdict == "ok", f"{outcome.difference:.1e} is more than {outcome.tolerance:.0e}"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("scores_01", "out.grad_image_features"),
        ("paired_volume_00", "out.head_max"),
        ("loss_tv", "out.grad_log_scale"),
        ("projection_01", "out.cls"),
    ],
)
def test_one_changed_number_is_a_miss(name, output, tmp_path):
    expected = load_file(GOLDEN / f"{name}.safetensors")[output]
    expected.view(-1)[-1] += 1e-2
    outcome = check_case(_copy(name, tmp_path, **{output: expected}))
    assert outcome.verdict == "MISS"
    assert outcome.difference == pytest.approx(1e-2, rel=1e-2)


def test_missing_output_and_nan_are_misses(tmp_path):
    assert check_case(_copy("audio_mask_01", tmp_path, **{"out.unknown": torch.zeros(3)})).difference == float("inf")
    broken = load_file(GOLDEN / "audio_mask_01.safetensors")["out.mask"]
    broken[0, 0] = float("nan")
    assert check_case(_copy("audio_mask_01", tmp_path, **{"out.mask": broken})).difference == float("inf")


def test_failing_case_is_a_miss_and_the_others_are_still_computed(tmp_path, capsys):
    _copy("audio_mask_00", tmp_path)
    stored = load_file(_copy("retrieval_00", tmp_path))
    with safe_open(GOLDEN / "retrieval_00.safetensors", "pt") as case:
        save_file(
            {name: tensor for name, tensor in stored.items() if name != "in.scores"},
            tmp_path / "retrieval_00.safetensors",
            case.metadata(),
        )
    assert main(NoSettings(), str(tmp_path)) == 1
    printed = capsys.readouterr()
    assert "1 agree, 1 miss" in printed.out and "retrieval_00.safetensors: KeyError: 'scores'" in printed.err


def test_command_exits_with_1_after_a_miss_in_any_folder(tmp_path, capsys):
    good, bad = (tmp_path / name for name in ("good", "bad"))
    for folder in (good, bad):
        folder.mkdir()
    _copy("audio_mask_00", good)
    _copy("audio_mask_00", bad, **{"out.mask": torch.zeros(4, 56, dtype=torch.bool)})
    assert [main(NoSettings(), str(folder)) for folder in (good, bad)] == [0, 1]
    printed = capsys.readouterr().out
    assert "1 agree, 0 miss" in printed
    assert re.search(r"audio_mask +audio_mask_00 +1\.0e\+00 +1e-06  MISS", printed)
    assert main(NoSettings(), str(good), str(bad)) == 1
    assert "1 agree, 1 miss" in capsys.readouterr().out


def test_missing_weight_names_of_the_released_case_are_one_error_line(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"released_checkpoint_keys\.json, which released_checkpoint_two_head\.safetensors needs, cannot be read",
    ):
        check_case(_copy("released_checkpoint_two_head", tmp_path))


def test_files_that_are_not_golden_cases_are_one_error_line(tmp_path):
    with pytest.raises(UsageError, match=r"contains no NAME\.safetensors"):
        check_folder(tmp_path)
    (tmp_path / "text.safetensors").write_text("not a case")
    with pytest.raises(UsageError, match=r"text\.safetensors: not a golden case"):
        check_folder(tmp_path)
    save_file(
        {"in.x": torch.zeros(1)},
        tmp_path / "text.safetensors",
        metadata={"case": json.dumps({"kind": "poem", "params": {}})},
    )
    with pytest.raises(UsageError, match=r"unknown kind 'poem', allowed are scores, "):
        check_folder(tmp_path)
    for kind, message in ((["mel"], r"unknown kind \['mel'\], allowed are"), ("mel", "no tensor out.NAME")):
        save_file(
            {"in.x": torch.zeros(1)},
            tmp_path / "text.safetensors",
            metadata={"case": json.dumps({"kind": kind, "params": {}})},
        )
        with pytest.raises(UsageError, match=message):
            check_folder(tmp_path)


def test_command_exits_with_2_and_one_line_for_missing_or_no_folders():
    command = [sys.executable, "-m", "eval.parity"]
    for folders, error in (
        (["nowhere"], "nowhere: contains no NAME.safetensors; give a folder of golden cases"),
        ([], "DIR..."),
    ):
        done = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and error in done.stderr and done.stderr.count("\n") == 1
