"""The commands of README and docs: which test runs each, and the commands that cannot run here, with the reason."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from markdown_blocks import code_blocks
from paths import ROOT

# Beginning of a command -> why this test does not run it.
ELSEWHERE = {
    "make demo": "the steps of this target run in the tests of toy_world, build, train.py and eval.run",
    "make test": "runs the tests",
    "python -m pipelines.build config=configs/build/folder.yaml source.root=VIDEOS": "e2e/test_own_videos.py",
    "python -m pipelines.verify data/shards/mine": "its shards are those of e2e/test_own_videos.py",
    "python -m pipelines.inspect data/shards/mine": "e2e/test_own_videos.py",
    "python train.py config=configs/train/toy.yaml name=mine": "e2e/test_own_videos.py",
    "python -m eval.run checkpoint=runs/mine": "e2e/test_own_videos.py",
    "python -m eval.render checkpoint=runs/mine": "e2e/test_own_videos.py",
    "python -m eval.render checkpoint=toy": "test_docs_using.py",
    "python -m eval.search": "test_docs_using.py",
    "python -m eval.app": "test_docs_using.py",
    "python -m pipelines.download": "needs the network; e2e/test_download_build.py runs it against a local server",
    "python -m model.convert source=denseav_sound.ckpt": "needs the released file; model/test_convert.py makes one",
    "python train.py config=configs/train/sound.yaml": "needs pre-trained weights; e2e/test_published.py",
    "accelerate launch --config_file configs/accelerate/multi_gpu.yaml": "needs GPUs; e2e/test_train_ranks.py",
    "sbatch --nodes=2": "needs a cluster; e2e/test_docker_slurm.py",
    "python -m eval.run config=configs/eval/toy.yaml checkpoint=runs/demo out=runs/demo tracker=wandb": (
        "needs an account of W&B; eval/test_eval_tracking.py logs offline"
    ),
    "python -m eval.workspace": "needs an account of W&B; eval/test_workspace.py",
}
# Arguments that make a command fit a small world and a model of eight steps.
SMALL = {
    "train.py": ["steps=8", "log_every_steps=4", "checkpoint.every_steps=8", "tracker=none"],
    "eval.run": ["gallery_size=24", "video=", "requirements=[]"],
}
SMALL_WORLD = "audioset_train=130 audioset_eval=24 places_train=130 places_val=24 prompts=24 damaged_share=0"


def _commands() -> list[str]:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    lines = [line for text in code_blocks(pages, "bash") for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return list(dict.fromkeys(shlex.join(line) for line in words if line and line[0] not in ("pip", "pre-commit")))


def _is_elsewhere(command: str) -> bool:
    return any(command.startswith(shlex.join(shlex.split(start))) for start in ELSEWHERE)


def _run(folder, command: str) -> str:
    _, *words = shlex.split(command)
    program, arguments = ([str(ROOT / words[0])], words[1:]) if words[0] != "-m" else (words[:2], words[2:])
    done = subprocess.run(
        [sys.executable, *program, *arguments, *SMALL.get(words[-1 - len(arguments)], [])],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _toy_shards() -> list[str]:
    """The builds of `make demo`."""
    lines = re.findall(r"\$\(PY\) (-m pipelines\.build .*)", (ROOT / "Makefile").read_text())
    splits = {"audioset": ("train", "eval"), "places_audio": ("train", "val"), "vggsound": ("test",)}
    return [
        f"python {line.replace('$$split', split)}"
        for line in lines
        for kind in re.findall(r"kind=(\w+)", line)
        for split in splits[kind]
    ]


def test_every_command_is_run_by_a_test_or_cannot_run_here():
    commands = _commands()
    unused = [start for start in ELSEWHERE if not any(c.startswith(shlex.join(shlex.split(start))) for c in commands)]
    assert not unused, "no page has these commands"
    named = {path for reason in ELSEWHERE.values() for path in re.findall(r"[\w/]+\.py", reason)} - {"train.py"}
    assert not [path for path in named if not (ROOT / "tests" / path).is_file()]
    assert len([command for command in commands if not _is_elsewhere(command)]) > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_run_as_they_stand_on_a_small_world(tmp_path):
    for command in [f"python -m pipelines.toy_world out=data/toy {SMALL_WORLD}", *_toy_shards()]:
        _run(tmp_path, command)
    media = tmp_path / "data/toy"
    for name, layout in {
        "data/audioset": "audioset",
        "AUDIOSET": "audioset",
        "ROOT": "audioset",
        "data/places_audio": "places_audio",
        "PLACES": "places_audio",
        "data/vggsound": "vggsound",
    }.items():
        (tmp_path / name).symlink_to(media / layout)
    table = (media / "audioset/eval_segments.csv").read_text()
    (media / "audioset/segments.csv").write_text(table)
    rows = (media / "vggsound/vggsound.csv").read_text()
    (media / "vggsound/vggsound.csv").write_text(rows.replace(",test", ",train"))
    _run(tmp_path, "python train.py config=configs/train/toy.yaml name=demo")
    (tmp_path / "runs/other").symlink_to(tmp_path / "runs/demo")
    commands = [command for command in _commands() if not _is_elsewhere(command)]
    for command in sorted(commands, key=lambda command: "compare" in command):
        _run(tmp_path, command)
