"""README and docs: their commands, files and Python exist and run, and the repository map is current."""

import ast
import importlib
import importlib.util
import re
import shlex
import shutil

import pytest
import repository_map
from markdown_blocks import code_blocks
from paths import ROOT

from configs import schema
from configs.load import load
from configs.package_names import PACKAGES
from configs.schema.ablate import AblateConfig

README = (ROOT / "README.md").read_text()
PAGES = README + "".join(
    page.read_text() for page in sorted((ROOT / "docs").glob("*.md")) if page != repository_map.MAP
)
SCHEMAS = {
    "pipelines.toy_world": schema.ToyWorldConfig,
    "pipelines.build": schema.BuildConfig,
    "pipelines.download": schema.DownloadConfig,
    "pipelines.verify": schema.VerifyConfig,
    "pipelines.inspect": schema.InspectConfig,
    "pipelines.doctor": schema.DoctorConfig,
    "pipelines.stream.index": schema.IndexConfig,
    "train.py": schema.TrainConfig,
    "eval.run": schema.EvalConfig,
    "eval.app": schema.AppConfig,
    "eval.render": schema.RenderConfig,
    "eval.search": schema.SearchConfig,
    "eval.parity": schema.NoSettings,
    "eval.report": schema.CompareConfig,
    "eval.ablate": AblateConfig,
    "eval.upsample": schema.UpsampleConfig,
    "eval.workspace": schema.WorkspaceConfig,
    "model.convert": schema.ConvertConfig,
    "model.export": schema.ExportConfig,
}
BARE_WORDS = {
    "pipelines.verify",
    "pipelines.inspect",
    "pipelines.stream.index",
    "eval.parity",
    "eval.report",
}  # take folders


def _commands() -> list[list[str]]:
    """Words of every command in a bash block, comments left out."""
    lines = [line for text in code_blocks(PAGES, "bash") for line in text.splitlines()]
    return [
        words for line in lines if (words := shlex.split(line, comments=True)) and words[0] not in ("pip", "pre-commit")
    ]


def test_repository_map_is_up_to_date_and_describes_every_file():
    assert repository_map.MAP.read_text() == repository_map.render(), "run python tests/support/repository_map.py"
    assert not [path for path in repository_map.tracked_files() if len(repository_map.description(path)) < 3]


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README and "TODO" not in README


def test_there_are_commands_to_check():
    assert {"make", "python", "accelerate"} <= {words[0] for words in _commands()}


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_exists_and_takes_its_settings(words):
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if words[0] == "sbatch":
        script, _, *settings = [word for word in words[1:] if not word.startswith("--")]
        assert (ROOT / script).is_file()
        words = ["python", "train.py", *settings]
    words = [word for word in words if word != "--quiet"]
    if words[:3] == ["accelerate", "launch", "--config_file"]:
        assert (ROOT / words[3]).is_file()
        words = ["python", *words[4:]]
    assert words[0] == "python"
    name, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    assert (ROOT / name).is_file() or importlib.util.find_spec(name)
    load(SCHEMAS[name], [argument for argument in arguments if "=" in argument or name not in BARE_WORDS])


def test_every_shipped_file_that_a_command_names_is_there():
    named = {path for words in _commands() for path in re.findall(r"configs/[\w/]+\.yaml", " ".join(words))}
    assert len(named) > 8 and not [path for path in named if not (ROOT / path).is_file()]


def test_all_python_compiles_and_all_imports_of_this_project_exist():
    blocks = code_blocks(PAGES, "python")
    assert len(blocks) > 10
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                assert not [name.name for name in node.names if not hasattr(module, name.name)], block


def test_every_file_that_is_named_is_there():
    names = set(re.findall(r"`([\w/]+\.(?:py|lock|css|md))`", PAGES))
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).exists() or list(ROOT.glob(f"*/*/{name}")) or list(ROOT.glob(f"*/{name}")), name


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    import denseav

    shutil.copy(denseav.example_clips()[0], tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (block,) = code_blocks(README, "python")
    found: dict = {}
    exec(block, found)
    assert found["result"].heatmaps.isfinite().all() and (tmp_path / "where.mp4").stat().st_size > 1000
