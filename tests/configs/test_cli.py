"""Commands in real processes: `--help`, exit codes, progress bars in logs."""

import re
import subprocess
import sys
import time

import pytest
from paths import ROOT

from configs.help import format_help
from configs.schema import BuildConfig, TrainConfig


def test_a_command_prints_help_and_rejects_unknown_keys():
    shown = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and "optim.lr" in shown.stdout and "learning rate" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "train.py", "nonsense=1"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_help_lists_the_keys_of_list_items():
    shown = format_help(TrainConfig)
    assert (
        re.search(r"^  stream\.sources\.N\.weight +sampling weight .* \[1\.0\]$", shown, re.MULTILINE)
        and "optim.groups.N.prefix" in shown
    )


def test_help_lists_allowed_values_default_and_unit():
    shown = format_help(BuildConfig)
    assert re.search(r"^  executor +where .* \{local,ray,slice\} \[local\]$", shown, re.MULTILINE)
    assert re.search(r"^  clips_per_shard +rows assigned to each shard \[1000 clips\]$", shown, re.MULTILINE)


HELP = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("{command}", run_name="__main__")
except SystemExit as end:
    assert not end.code
print("IMPORTED", *sorted({{"omegaconf", "yaml", "tqdm", "torch"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "command",
    ["pipelines.build", "pipelines.download", "eval.run", "eval.ablate", "model.convert", "pipelines.verify", "train"],
)
def test_help_is_fast(command):
    def seconds(code: str) -> float:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1:] in ([], ["IMPORTED"])
        return time.perf_counter() - start

    # 5 to 15 times an empty process. torch adds more than 100 times.
    code = HELP.format(command=command)
    assert min(seconds(code) for _ in range(3)) < 30 * min(seconds("pass") for _ in range(3))


def test_a_progress_bar_in_a_log_is_printed_twice_a_minute_and_at_its_end():
    code = """
import sys, time
from configs.cli import run
from configs.schema import NoSettings
def body(config):
    from tqdm import tqdm
    for _ in tqdm(range(50)):
        time.sleep(0.01)
sys.exit(run(NoSettings, "", body, []))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.count("%|") == 2 and "50/50" in done.stderr
