"""Labels and captions of a plain folder: from its subfolders, or from a metadata.csv or metadata.jsonl in it."""

import json

import pytest

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.sources import folder


def rows(root, *files, labels_from_folders=False, **tables):
    """Rows as {media: (labels, text)}; `tables` are contents of metadata.csv or, named jsonl, of metadata.jsonl."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    for kind, content in tables.items():
        (root / f"metadata.{kind}").write_bytes(content if isinstance(content, bytes) else content.encode())
    clips = list(folder.rows(SourceConfig(root=str(root), labels_from_folders=labels_from_folders)))
    assert len({clip.id for clip in clips}) == len(clips)
    return {clip.media: (clip.labels, clip.text) for clip in clips}


def test_label_is_the_name_of_the_folder_of_a_file(tmp_path):
    files = ("animal/dog/a.mp4", "cat, big/b.mkv", "c.mp4")
    assert rows(tmp_path, *files, labels_from_folders=True) == {
        "animal/dog/a.mp4": (("dog",), ""),
        "cat, big/b.mkv": (("cat, big",), ""),
        "c.mp4": ((), ""),
    }
    assert set(rows(tmp_path).values()) == {((), "")}


@pytest.mark.parametrize(
    "tables",
    [
        {"csv": 'file_name,label,text\na/x.mp4,"dog, small",a dog\ny.mp4,cat,\n'},
        {"csv": '\ufefftext;label;file_name\r\na dog;dog, small;.\\a\\x.mp4\r\n;"cat";./y.mp4\r\n'},
        {"csv": 'file_name\tlabels\ttext\na/x.mp4\t["dog, small"]\ta dog\ny.mp4\tcat;\t\n'},
        {
            "jsonl": '{"file_name": "a/x.mp4", "label": "dog, small", "text": "a dog"}\n\n'
            '{"file_name": "y.mp4", "labels": ["cat"], "n": 1}\n'
        },
    ],
)
def test_metadata_table_gives_labels_and_captions(tmp_path, tables):
    assert rows(tmp_path, "a/x.mp4", "y.mp4", **tables) == {
        "a/x.mp4": (("dog, small",), "a dog"),
        "y.mp4": (("cat",), ""),
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("dog;cat, big", ("dog", "cat, big")),
        ("dog| cat", ("dog", "cat")),
        ('"dog,cat,dog"', ("dog", "cat")),
        ("3", ("3",)),
        ("", ()),
    ],
)
def test_labels_are_separated_by_semicolons_bars_or_commas(tmp_path, labels, expected):
    assert (
        rows(
            tmp_path,
            "x.mp4",
            csv=f"file_name,labels\nx.mp4,{labels}\n"
            if ", " not in labels
            else (f'file_name,labels\nx.mp4,"{labels}"\n'),
        )["x.mp4"][0]
        == expected
    )


def test_label_of_a_table_wins_over_the_folder_and_a_lower_table_over_a_higher_one(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/metadata.csv").write_text("file_name,label\nx.mp4,puppy\n")
    found = rows(tmp_path, "dog/x.mp4", "dog/y.mp4", labels_from_folders=True, csv="file_name,label\ndog/x.mp4,wolf\n")
    assert found == {"dog/x.mp4": (("puppy",), ""), "dog/y.mp4": (("dog",), "")}


def test_listed_files_that_do_not_exist_are_rows_and_unlisted_videos_are_counted(tmp_path, capsys):
    found = rows(tmp_path, "x.mp4", "y.mp4", csv="file_name,label\nz.mp4,cat\nx.mp4,dog\n")
    assert found == {"x.mp4": (("dog",), ""), "y.mp4": ((), ""), "z.mp4": (("cat",), "")}
    assert capsys.readouterr().err == "metadata: 1 of 2 videos are in no metadata.csv or metadata.jsonl\n"


def test_one_label_in_two_spellings_is_said_and_not_merged(tmp_path, capsys):
    files = ("Dog bark/a.mp4", "dog_bark/b.mp4", "dog_bark/c.mp4", "dogs/d.mp4", "C/e.mp4", "C#/f.mp4")
    found = rows(tmp_path, *files, labels_from_folders=True)
    assert {labels[0] for labels, _ in found.values()} == {"Dog bark", "dog_bark", "dogs", "C", "C#"}
    assert capsys.readouterr().err == (
        "labels: labels 'Dog bark' (1 clips) and 'dog_bark' (2 clips) differ in their spelling only; "
        "they are kept as 2 labels\n"
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"csv": "name,label\nx.mp4,a\n"}, r"metadata.csv: no column file_name; it has name, label"),
        ({"csv": ""}, "no column file_name; it has none"),
        ({"csv": "file_name,label\nx.mp4,a\n./x.mp4,b\n"}, "'x.mp4' is listed twice"),
        ({"csv": "file_name\n,\n"}, "wanted a file_name"),
        ({"csv": 'file_name\n"x.mp4\n'}, "unexpected end of data"),
        ({"csv": "file_name,label\nx.mp4,é\n".encode("latin-1")}, "'utf-8' codec"),
        ({"jsonl": json.dumps({"label": "a"})}, "wanted a file_name; found {'label': 'a'}"),
        ({"jsonl": '"x.mp4"'}, "wanted a file_name"),
        ({"jsonl": '{"file_name": "x.mp4", "labels": [{"a": 1}]}'}, "labels must be texts; found {'a': 1}"),
        ({"jsonl": "{"}, "Expecting property name"),
    ],
)
def test_malformed_table_is_a_one_line_error(tmp_path, tables, message):
    with pytest.raises(UsageError, match=message) as raised:
        rows(tmp_path, "x.mp4", **tables)
    assert len(str(raised.value).splitlines()) == 1
