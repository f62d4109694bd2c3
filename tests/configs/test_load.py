"""Loading settings: precedence of the sources, one-line errors, stored settings."""

import re
import typing

import pytest
from paths import ROOT

from configs.cli import run
from configs.errors import UsageError
from configs.load import diff_configs, find_config, load, load_stored, to_yaml
from configs.schema import BuildConfig, EvalConfig, ModelConfig, ToyWorldConfig, TrainConfig
from configs.schema_check import field_types


def test_command_line_overrides_file_which_overrides_schema(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optim: {lr: 0.5, eps: 0.25}\nstream: {sources: [{name: a, shards: x}, {name: b, shards: y}]}\n")
    config = load(TrainConfig, [f"config={file}", "optim.lr=0.1", "stream.sources.1.shards=z"])
    assert (config.optim.lr, config.optim.eps, config.optim.warmup_steps) == (0.1, 0.25, 1000)
    assert [s.shards for s in config.stream.sources] == [["x"], ["z"]]


def test_command_line_changes_an_item_of_a_list_inside_a_list_item(tmp_path):
    (tmp_path / "a.yaml").write_text("stream: {sources: [{name: a, exclude: [one, two]}]}\nseed: 3\n")
    config = load(TrainConfig, [f"config={tmp_path}/a.yaml", "stream.sources.0.exclude.1=three", "optim.betas.0=0.5"])
    assert config.stream.sources[0].exclude == ["one", "three"] and config.stream.sources[0].name == "a"
    assert config.optim.betas == [0.5, 0.999]


def test_the_last_of_two_equal_keys_wins(tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 7")
    assert load(TrainConfig, ["steps=1", "steps=2"]).steps == 2
    assert load(TrainConfig, ["config=nowhere.yaml", f"config={tmp_path}/c.yaml"]).steps == 7


@pytest.mark.parametrize(
    "arguments", [["--config", "FILE"], ["--config=FILE"], ["FILE"], ["--config=FILE", "--steps=7"]]
)
def test_options_in_the_style_of_other_programs_are_understood(tmp_path, arguments):
    (tmp_path / "c.yaml").write_text("steps: 7")
    given = []
    argv = [argument.replace("FILE", f"{tmp_path}/c.yaml") for argument in arguments]
    assert run(TrainConfig, "A command.", lambda config: given.append(config.steps), argv) == 0
    assert given == [7]


def test_a_setting_may_refer_to_another_one(tmp_path):
    (tmp_path / "a.yaml").write_text("name: ${out}/x\nout: b\nloss: {objective: '${name}', tv: '${seed}'}\nseed: 4\n")
    with pytest.raises(UsageError, match=r"loss\.objective"):
        load(TrainConfig, [f"config={tmp_path}/a.yaml"])
    config = load(TrainConfig, [f"config={tmp_path}/a.yaml", "loss.objective=bce"])
    assert (config.name, config.loss.tv) == ("b/x", 4.0)


def test_an_empty_value_is_an_empty_string():
    assert load(EvalConfig, ["checkpoint=", "out=x"]).checkpoint == ""


def test_resolved_settings_can_be_loaded_again(tmp_path):
    config = load(TrainConfig, ["stream.sources=[{name: a, shards: x, weight: 2}]", "steps=7"])
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load(TrainConfig, [f"config={tmp_path}/c.yaml"]) == config
    assert load_stored(TrainConfig, to_yaml(config), "runs/a") == config
    assert load_stored(ModelConfig, vars(config.model), "config.json") == config.model


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["optm.lr=1"], ["optm", "did you mean optim?", "the command line"]),
        (["optim.lrr=1"], ["optim.lrr", "did you mean lr?", "the command line"]),
        (["optim.lr=fast"], ["optim.lr", "fast", "the command line"]),
        (["optim.lr.x=1"], ["optim.lr has no keys below it"]),
        (["stream.sources.4.shards=x"], ["stream.sources.4", "no such item", "has 0"]),
        (["--steps", "5"], ["--steps: settings are written steps=5, without dashes"]),
        (["-v"], ["-v: settings are written v=VALUE, without dashes"]),
        (["stream.sources.a=3"], ["stream.sources={'a': 3}: must be a list"]),
        (["config=nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["steps"], ["'steps'", "key=value"]),
        (["steps=[1"], ["steps=[1", "the command line"]),
        (["steps=[1]"], ["steps=[1]: must be a single value, not a list", "the command line"]),
        (["stream.sources.places.wieght=1"], ["stream.sources.0.wieght", "did you mean weight?"]),
        (["stream.sources.0=places"], ["stream.sources", "the command line"]),
        (["loss.tv=-5"], ["loss.tv=-5.0 must be 0 or more (from the command line)"]),
        (["loss.tv=.nan"], ["loss.tv=nan must be 0 or more"]),
        (["stream.sources=places"], ["stream.sources=places: must be a list", "the command line"]),
        (["stream.sources={name: a}"], ["stream.sources={'name': 'a'}: must be a list", "the command line"]),
        (["optim=adam"], ["optim=adam: must be `key: value` settings", "the command line"]),
        (["seed=9223372036854775808"], ["seed=9223372036854775808 must be 0 to 9223372036854775807"]),
        (["stream.sources=[{name: a}]", "stream.sources.0.exclude.1=x"], ["stream.sources.0.exclude.1: no such item"]),
        (["stream.sources=[{name: a}, x]"], ["stream.sources.1=x: must be `key: value` settings"]),
        (["stream.sources=[{weight: fast}]"], ["weight", "fast", "the command line"]),
        (["optim.betas=[0.9, fast]"], ["optim.betas.1=", "fast", "the command line"]),
        (["steps=${nothing}"], ["steps: ", "nothing", "the command line"]),
        (["loss.objective="], ["loss.objective=: allowed are info_nce, cross_entropy, margin, bce, siglip"]),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(arguments, parts, capsys):
    assert run(TrainConfig, "A command.", lambda _: 0, arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("error: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        ("is3,vgg_ss", r"benchmarks=is3,vgg_ss: must be a list, benchmarks=\[is3,vgg_ss\] \("),
        ("[[is3]]", r"benchmarks\.0=\['is3'\]: must be a single value, not a list"),
    ],
)
def test_a_value_that_is_not_a_list_of_names_is_rejected_with_the_right_syntax(benchmarks, message):
    with pytest.raises(UsageError, match=message):
        load(EvalConfig, [f"benchmarks={benchmarks}"])


def test_a_setting_that_refers_to_itself_is_rejected_in_one_line(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("steps: ${steps}\n")
    assert run(TrainConfig, "A command.", lambda _: 0, [f"config={tmp_path / 'a.yaml'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_key_in_a_file_is_reported_with_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {num_headz: 2}\n")
    with pytest.raises(UsageError, match=r"model\.num_headz.*did you mean num_heads.*a\.yaml"):
        load(TrainConfig, [f"config={tmp_path}/a.yaml"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\tx: 1\n", "12\n", "model:\n"])
def test_a_file_that_is_not_settings_is_rejected_in_one_line(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"a\.yaml") as caught:
        load(TrainConfig, [f"config={tmp_path}/a.yaml"])
    assert "\n" not in str(caught.value)


def test_changed_keys_are_reported_with_both_values():
    a, b = load(TrainConfig, []), load(TrainConfig, ["optim.lr=1", "steps=5", "model.num_heads=2"])
    assert diff_configs(a, b, ignore=("steps",)) == ["model.num_heads: 1 -> 2", "optim.lr: 5e-05 -> 1.0"]


@pytest.mark.parametrize(("schema", "folder"), [(BuildConfig, "build"), (TrainConfig, "train"), (EvalConfig, "eval")])
def test_every_shipped_file_loads_and_starts_with_its_command(schema, folder):
    files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    assert files
    for file in files:
        load(schema, [f"config={file}"])
        assert file.read_text().startswith("#"), file


@pytest.mark.parametrize(
    ("schema", "argument", "message"),
    [
        (TrainConfig, "stream.augment.flip_probability=1.5", "stream.augment.flip_probability=1.5 must be 0 to 1"),
        (TrainConfig, "checkpoint.every_steps=0", "checkpoint.every_steps=0 must be 1 or more"),
        (TrainConfig, "stream.lanes=0", "stream.lanes=0 must be 1 or more"),
        (TrainConfig, "stream.num_workers=-1", "stream.num_workers=-1 must be 0 to 256"),
        (TrainConfig, "stream.augment.color_jitter=-0.1", "stream.augment.color_jitter=-0.1 must be 0 to 0.5"),
        (ToyWorldConfig, "prompts=0", "prompts=0 must be 1 or more"),
        (ToyWorldConfig, "clip_duration_s=0.1", "clip_duration_s=0.1 must be 0.5 or more"),
        (TrainConfig, "optim.lr=nan", "optim.lr=nan must be 0 or more"),
    ],
)
def test_a_value_out_of_range_is_rejected_with_the_allowed_range(schema, argument, message):
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        load(schema, [argument])


def _choices(schema, prefix=""):
    """Dotted key and allowed values of every Literal field."""
    for name, kind in field_types(schema).items():
        if typing.get_origin(kind) is typing.Literal:
            yield prefix + name, typing.get_args(kind)
        elif isinstance(kind, type) and kind.__module__.startswith("configs.schema"):
            yield from _choices(kind, f"{prefix}{name}.")


CHOICES = [(schema, *choice) for schema in (BuildConfig, TrainConfig) for choice in _choices(schema)]


@pytest.mark.parametrize(("schema", "key", "allowed"), CHOICES, ids=[key for _, key, _ in CHOICES])
def test_a_value_that_is_not_allowed_is_rejected_with_the_allowed_values(schema, key, allowed, tmp_path):
    for value in allowed:
        config = load(schema, [f"{key}={value}"])
        for name in key.split("."):
            config = getattr(config, name)
        assert config == value
    message = f"{re.escape(key)}=foo: allowed are {', '.join(allowed)} "
    with pytest.raises(UsageError, match=f"^{message}" + r"\(from the command line\)$"):
        load(schema, [f"{key}=foo"])
    section, _, name = key.rpartition(".")
    (tmp_path / "a.yaml").write_text(f"{section}: {{{name}: foo}}\n" if section else f"{name}: foo\n")
    with pytest.raises(UsageError, match=f"^{message}" + r"\(from .*a\.yaml\)$"):
        load(schema, [f"config={tmp_path / 'a.yaml'}"])


def test_every_setting_with_fixed_values_is_checked():
    assert {key for _, key, _ in CHOICES} == {
        *(
            "source.kind",
            "decode.mode",
            "decode.decoder",
            "decode.channel",
            "decode.audio",
            "decode.audio_format",
            "executor",
        ),
        *("loss.objective",),
        *("model.audio_projection", "model.similarity_aggregation", "model.head_aggregation", "tracker"),
        *("stream.audio", "checkpoint.upload", "optim.name", "optim.schedule", "nonfinite_loss_action"),
    }


@pytest.mark.parametrize(
    "text",
    ["2024_06_01", "000012", "1e5", "yes", "null", "a: b", "[1]", "{x}", "", "'quoted'", "$HOME", "${oc.env:HOME}"],
)
def test_a_string_on_the_command_line_is_taken_literally(text):
    assert load(TrainConfig, [f"name={text}"]).name == text


def test_a_path_below_the_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load(TrainConfig, ["stream.cache_dir=~/copies", "name=~x"]).stream.cache_dir == "/home/me/copies"
    assert load(TrainConfig, ["name=a~/b"]).name == "a~/b"


def test_a_shipped_config_is_found_from_any_folder_after_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(TrainConfig, ["config=configs/train/toy.yaml"]) == load(
        TrainConfig, [f"config={ROOT}/configs/train/toy.yaml"]
    )
    (tmp_path / "configs/train").mkdir(parents=True)
    (tmp_path / "configs/train/toy.yaml").write_text("steps: 7\n")
    assert load(TrainConfig, ["config=configs/train/toy.yaml"]).steps == 7
    assert find_config("configs/train/sound.yaml") == ROOT / "configs/train/sound.yaml"


@pytest.mark.parametrize(
    ("path", "available"),
    [
        ("configs/train/tiny.yaml", "configs/train/language.yaml, "),
        ("configs/trains/toy.yaml", "configs/ablate/toy.yaml, "),
        ("mine/b.yaml", "mine/a.yaml"),
    ],
)
def test_a_missing_file_is_reported_with_the_files_that_exist(tmp_path, monkeypatch, path, available):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.yaml").touch()
    with pytest.raises(UsageError, match=f"^config={path}: no such file; available: .*{available}"):
        load(TrainConfig, [f"config={path}"])


OLD_RUN = """
name: demo
out: runs
seed: 0
batch_size: 48
accumulate: 1
projection_steps: 10
model:
  image_encoder: tiny
  image_projection: image_linear
  audio_projection: audio_linear
  channels: 128
  heads: 2
  aggregation: misa
"""


def test_settings_stored_before_the_renames_are_rejected_in_one_line():
    advice = "(first unknown key: {}): train anew or use commit 41bd2f4"
    with pytest.raises(UsageError) as error:
        load_stored(TrainConfig, OLD_RUN, "runs/demo/checkpoints/step_00000400")
    assert str(error.value) == (
        "runs/demo/checkpoints/step_00000400 was written by a version before the settings were renamed "
        + advice.format("batch_size")
    )
    with pytest.raises(UsageError) as error:
        load_stored(ModelConfig, {"image_encoder": "tiny", "image_projection": "image_linear", "heads": 2}, "model")
    assert str(error.value).endswith(advice.format("image_projection"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("seed: -1", "seed=-1 must be .*from runs/a"),
        ("a: [", "runs/a is not readable"),
        ({"steps": "x"}, "steps=x: .*runs/a"),
    ],
)
def test_invalid_stored_settings_are_rejected_in_one_line(stored, message):
    with pytest.raises(UsageError, match=message) as error:
        load_stored(TrainConfig, stored, "runs/a")
    assert "\n" not in str(error.value)
