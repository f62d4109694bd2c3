"""Mistakes of users: every command answers with one line that names the value and the remedy, and exit code 2 or 1."""

import importlib
import os
import shutil

import pytest
from other_user import open_folder, other_user
from paths import ROOT
from PIL import Image
from tiny_media import write_video
from tiny_shards import write_data_set
from user_mistakes_data import DATA_MISTAKES
from user_mistakes_model import MODEL_MISTAKES

from configs import cli, schema
from configs.schema.ablate import AblateConfig

COMMANDS = {  # name -> module, schema, positional arguments
    "toy_world": ("pipelines.toy_world.__main__", schema.ToyWorldConfig, ()),
    "build": ("pipelines.build.__main__", schema.BuildConfig, ()),
    "download": ("pipelines.download.__main__", schema.DownloadConfig, ()),
    "verify": ("pipelines.verify", schema.VerifyConfig, ("dir",)),
    "inspect": ("pipelines.inspect.__main__", schema.InspectConfig, ("shard_or_dir",)),
    "doctor": ("pipelines.doctor", schema.DoctorConfig, ()),
    "index": ("pipelines.stream.index", schema.IndexConfig, ("dir",)),
    "train": ("train", schema.TrainConfig, ()),
    "eval": ("eval.run", schema.EvalConfig, ()),
    "ablate": ("eval.ablate", AblateConfig, ()),
    "report": ("eval.report.__main__", schema.CompareConfig, ("compare", "A", "B")),
    "render": ("eval.render.__main__", schema.RenderConfig, ()),
    "search": ("eval.search.__main__", schema.SearchConfig, ()),
    "app": ("eval.app.__main__", schema.AppConfig, ()),
    "upsample": ("eval.upsample", schema.UpsampleConfig, ()),
    "workspace": ("eval.workspace", schema.WorkspaceConfig, ()),
    "export": ("model.export", schema.ExportConfig, ()),
    "convert": ("model.convert.__main__", schema.ConvertConfig, ()),
}
MISTAKES = DATA_MISTAKES + MODEL_MISTAKES


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Shards (finished, unfinished, cut), a folder with a silent video, and files with the wrong content."""
    root = tmp_path_factory.mktemp("world")
    write_data_set(root / "shards", [3])
    shutil.copytree(root / "shards", root / "unfinished", ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(root / "shards", root / "foreign_cut", ignore=shutil.ignore_patterns("*.json*"))
    os.truncate(root / "foreign_cut/train-000000.tar", 3000)
    (root / "empty").mkdir()
    shutil.copytree(ROOT / "model/pretrained/toy", root / "damaged_model")
    os.truncate(root / "damaged_model/model.safetensors", 3000)
    write_video(root / "mutes/mute.mp4", audio=False)
    for name in ("text.mp4", "text.wav", "text.jpg", "text.ckpt"):
        (root / name).write_text("text\n")
    Image.new("RGB", (40, 30)).save(root / "dot.png")
    (root / "bytes.yaml").write_bytes(b"\xaa\xff\x00")
    return root


def _run(command, arguments, capsys):
    """Exit code of a command, run in this process, and the last line of its stderr, the only one with an error."""
    module, settings, positional = COMMANDS[command]
    code = cli.run(settings, "", importlib.import_module(module).main, arguments.split(), positional)
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if line.startswith(("error", "Traceback"))] == lines[-1:]
    return code, lines[-1]


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"), MISTAKES, ids=[f"{name} {given}" for name, given, *_ in MISTAKES]
)
def test_a_mistake_gives_one_line_with_value_and_remedy(command, arguments, code, message, world, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found_code, line = _run(command, arguments.replace("{w}", str(world)), capsys)
    expected = f"error: {message.replace('{w}', str(world))}"
    if expected.endswith("..."):
        assert line.startswith(expected.removesuffix("..."))
    else:
        assert line == expected
    assert found_code == code and not (world / "new").exists()


def test_the_mistakes_cover_every_command():
    assert {command for command, *_ in MISTAKES} == COMMANDS.keys() and len(MISTAKES) >= 60


@pytest.mark.parametrize(("folder", "reason"), [("mutes", "no_audio"), ("texts", "unreadable")])
def test_a_folder_without_a_usable_video_is_an_error_that_names_the_reasons(world, folder, reason, tmp_path, capsys):
    (world / "texts").mkdir(exist_ok=True)
    shutil.copy(world / "text.mp4", world / "texts/text.mp4")
    arguments = f"config=configs/build/folder.yaml source.root={world / folder} out={tmp_path}/o processes=1"
    code, line = _run("build", arguments, capsys)
    assert (code, line) == (1, f"error: no clip could be used; {tmp_path}/o/rejected.jsonl lists the reasons")
    assert reason in (tmp_path / "o/rejected.jsonl").read_text()


def test_a_folder_without_the_right_to_write_is_named(capsys):
    with open_folder() as folder, other_user():
        code, line = _run("toy_world", f"out={folder}/mine/toy", capsys)
    assert (code, line) == (1, f"error: Permission denied: {folder}/mine; choose another folder")
