"""Settings: layers, errors in one line, `--help`."""

import re
import subprocess
import sys

import pytest
from paths import ROOT

from configs.cli import run
from configs.errors import UsageError
from configs.load import diff_configs, format_help, load, to_yaml
from configs.schema import BuildConfig, EvalConfig, ToyWorldConfig, TrainConfig


def test_the_command_line_wins_over_the_file_which_wins_over_the_schema(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optim: {lr: 0.5, eps: 0.25}\nstream: {sources: [{name: a, shards: x}, {name: b, shards: y}]}\n")
    config = load(TrainConfig, [f"config={file}", "optim.lr=0.1", "stream.sources.1.shards=z"])
    assert (config.optim.lr, config.optim.eps, config.optim.warmup_steps) == (0.1, 0.25, 1000)
    assert [s.shards for s in config.stream.sources] == ["x", "z"]


def test_nothing_behind_the_equals_sign_is_an_empty_text():
    assert load(EvalConfig, ["checkpoint=", "out=x"]).checkpoint == ""


def test_resolved_settings_read_back_as_they_were(tmp_path):
    config = load(TrainConfig, ["stream.sources=[{name: a, shards: x, weight: 2}]", "steps=7"])
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load(TrainConfig, [f"config={tmp_path}/c.yaml"]) == config


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["optm.lr=1"], ["optm", "did you mean optim?", "the command line"]),
        (["optim.lrr=1"], ["optim.lrr", "did you mean lr?", "the command line"]),
        (["optim.lr=fast"], ["optim.lr", "fast", "the command line"]),
        (["optim.lr.x=1"], ["optim.lr has no keys below it"]),
        (["stream.sources.4.shards=x"], ["stream.sources.4", "no such item", "has 0"]),
        (["steps=1", "steps=2"], ["steps", "twice"]),
        (["config=nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["steps"], ["'steps'", "key=value"]),
        (["steps=[1"], ["steps=[1", "the command line"]),
        (["stream.sources.0=places"], ["stream.sources", "the command line"]),
        (["loss.tv=-5"], ["loss.tv=-5.0 must be 0 or more"]),
        (["loss.tv=.nan"], ["loss.tv=nan must be 0 or more"]),
        (["stream.sources=places"], ["stream.sources=places: wanted a list", "the command line"]),
        (["seed=9223372036854775808"], ["seed=9223372036854775808 must be 0 to 9223372036854775807"]),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(arguments, parts, capsys):
    assert run(TrainConfig, "A command.", lambda _: 0, arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [
        ("is3", r"benchmarks=is3: wanted a list, benchmarks=\[is3\] \("),
        ("[[is3]]", "benchmarks=.* wanted a list of plain values, without lists in it"),
    ],
)
def test_what_is_no_list_of_names_is_told_with_how_to_write_one(benchmarks, said):
    with pytest.raises(UsageError, match=said):
        load(EvalConfig, [f"benchmarks={benchmarks}"])


def test_a_setting_that_stands_for_itself_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("steps: ${steps}\n")
    assert run(TrainConfig, "A command.", lambda _: 0, [f"config={tmp_path / 'a.yaml'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_with_an_unknown_key_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {num_headz: 2}\n")
    with pytest.raises(UsageError, match=r"model\.num_headz.*did you mean num_heads.*a\.yaml"):
        load(TrainConfig, [f"config={tmp_path}/a.yaml"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\tx: 1\n"])
def test_a_file_that_is_not_settings_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"a\.yaml") as caught:
        load(TrainConfig, [f"config={tmp_path}/a.yaml"])
    assert "\n" not in str(caught.value)


def test_changed_keys_are_named_with_both_values():
    a, b = load(TrainConfig, []), load(TrainConfig, ["optim.lr=1", "steps=5", "model.num_heads=2"])
    assert diff_configs(a, b, ignore=("steps",)) == ["model.num_heads: 1 -> 2", "optim.lr: 5e-05 -> 1.0"]


@pytest.mark.parametrize(("schema", "folder"), [(BuildConfig, "build"), (TrainConfig, "train"), (EvalConfig, "eval")])
def test_every_shipped_file_loads_and_is_headed_by_its_command(schema, folder):
    files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    assert files
    for file in files:
        load(schema, [f"config={file}"])
        assert file.read_text().startswith("#"), file


def test_a_command_in_a_real_process_shows_help_and_refuses_nonsense():
    shown = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and "optim.lr" in shown.stdout and "learning rate" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "train.py", "nonsense=1"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("schema", "argument", "message"),
    [
        (TrainConfig, "stream.augment.flip_probability=1.5", "stream.augment.flip_probability=1.5 must be 0 to 1"),
        (TrainConfig, "checkpoint.every_steps=0", "checkpoint.every_steps=0 must be 1 or more"),
        (TrainConfig, "stream.lanes=0", "stream.lanes=0 must be 1 or more"),
        (TrainConfig, "stream.num_workers=-1", "stream.num_workers=-1 must be 0 or more"),
        (TrainConfig, "stream.augment.color_jitter=-0.1", "stream.augment.color_jitter=-0.1 must be 0 to 0.5"),
        (ToyWorldConfig, "prompts=0", "prompts=0 must be 1 or more"),
        (ToyWorldConfig, "clip_duration_s=0.1", "clip_duration_s=0.1 must be 0.5 or more"),
        (TrainConfig, "optim.lr=nan", "optim.lr=nan must be 0 or more"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(schema, argument, message):
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        load(schema, [argument])


@pytest.mark.parametrize(
    "text",
    ["2024_06_01", "000012", "1e5", "yes", "null", "a: b", "[1]", "{x}", "", "'quoted'", "$HOME", "${oc.env:HOME}"],
)
def test_a_text_on_the_command_line_is_taken_as_it_is_typed(text):
    assert load(TrainConfig, [f"name={text}"]).name == text


def test_a_path_at_home_is_one_also_where_the_shell_leaves_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load(TrainConfig, ["stream.cache_dir=~/copies", "name=~x"]).stream.cache_dir == "/home/me/copies"
    assert load(TrainConfig, ["name=a~/b"]).name == "a~/b"


def test_help_names_the_keys_of_the_items_of_a_list():
    shown = format_help(TrainConfig)
    assert (
        re.search(r"^  stream\.sources\.N\.weight +share of the positions .* \[1\.0\]$", shown, re.MULTILINE)
        and "optim.groups.N.prefix" in shown
    )


def test_in_a_log_a_progress_bar_is_told_twice_a_minute_and_at_its_end():
    code = """
import sys, time
from configs.cli import run
from configs.schema import DoctorConfig
def body(config):
    from tqdm import tqdm
    for _ in tqdm(range(50)):
        time.sleep(0.01)
sys.exit(run(DoctorConfig, "", body, []))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.count("%|") == 2 and "50/50" in done.stderr
