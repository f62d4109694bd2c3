"""python -m eval.search: an index is built, searched and changed, and mistakes are one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_media import write_video, write_wav
from tiny_search import command, results, write_files, write_model, write_shards
from tiny_shards import tone

from eval.search.lance_store import LanceStore


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    write_model(root / "model")
    write_shards(root / "shards", changes={3: {"flac": b"no sound at all" * 9}})
    write_files(root / "files")
    write_wav(root / "query.wav", tone(5, 0.5))
    write_video(root / "query.mp4", 1.5)
    build = f"index={root / 'index'}", f"checkpoint={root / 'model'}"
    assert command(*build, f"build={root / 'shards'}") == 0
    assert command(*build, f"build={root / 'files'}") == 0
    return root


@pytest.fixture
def copied(world, tmp_path):
    """An index for a test to change."""
    shutil.copytree(world / "index", tmp_path / "index")
    return tmp_path / "index"


def _one_line(capsys, *words):
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    for word in words:
        assert word in error, error


def test_an_index_has_every_readable_clip_once_and_a_second_build_adds_none(world, copied, capsys):
    sources = LanceStore.open(str(copied)).describe().sources
    assert len([id for id in sources if id.startswith("shards/clip")]) == 11
    assert list(sources.values()).count("files") == 4  # two windows of the video, the sound, the picture
    for data in ("shards", "files"):
        capsys.readouterr()
        assert command(f"index={copied}", f"checkpoint={world / 'model'}", f"build={world / data}") == 0
        assert "0 clips added" in capsys.readouterr().out
    assert LanceStore.open(str(copied)).describe().sources == sources


def test_what_cannot_be_read_is_counted_and_named(world, tmp_path, capsys):
    build = f"index={tmp_path / 'index'}", f"checkpoint={world / 'model'}"
    assert command(*build, f"build={world / 'files'}") == 0
    error = capsys.readouterr().err
    assert "3 files left out" in error and all(f"damaged.{kind}" in error for kind in ("mp4", "wav", "png"))
    assert command(*build, f"build={world / 'shards'}") == 0
    assert "1 clips left out: bad audio" in capsys.readouterr().err


def test_a_sound_finds_pictures_and_a_picture_finds_sounds(world, capsys):
    index = f"index={world / 'index'}"
    pictures = results(capsys, index, f"query={world / 'query.wav'}", "top_k=100")
    assert len(pictures) == 14  # the sound among the files has no picture
    assert {tuple(row["found_by"]) for row in pictures} == {("image",)}
    assert [row["score"] for row in pictures] == sorted((row["score"] for row in pictures), reverse=True)
    sounds = results(capsys, index, f"query={world / 'files/sky/picture.png'}", "top_k=100")
    assert "sound" in " ".join(row["id"] for row in sounds) and not any("picture" in row["id"] for row in sounds)
    both = results(capsys, index, f"query={world / 'query.mp4'}", "top_k=100")
    assert {tuple(row["found_by"]) for row in both} == {("image",), ("audio",), ("image", "audio")}
    assert set(both[0]) == {
        "rank", "id", "score", "first_stage_rank", "found_by", "labels", "text", "source", "start_s", "end_s", "media",
    }  # fmt: skip


def test_the_filter_selects_labels_sources_and_ids(world, capsys):
    query = f"index={world / 'index'}", f"query={world / 'query.wav'}", "top_k=100"
    dogs = results(capsys, *query, "where=label=dog")
    assert [row["labels"] for row in dogs] == [["dog"]] * 2
    assert {row["labels"][0] for row in results(capsys, *query, "where=label=label1,source=shards")} == {"label1"}
    one = dogs[0]["id"]
    assert [row["id"] for row in results(capsys, *query, f"where=id={one}")] == [one]
    assert command(*query, "where=label=it's) OR (1=1") == 2
    _one_line(capsys, "passes the filter", "it's) OR (1=1")


def test_a_long_video_is_several_clips_with_their_times(world, capsys):
    query = f"index={world / 'index'}", f"query={world / 'query.wav'}", "where=label=dog", "top_k=9"
    times = sorted((row["start_s"], row["end_s"]) for row in results(capsys, *query))
    assert times[0] == (0, 0.64) and times[1][0] == 0.64 and times[1][1] == pytest.approx(1.0, abs=0.15)


def test_scores_with_and_without_the_second_stage_agree_on_the_best(world, capsys):
    query = f"index={world / 'index'}", f"query={world / 'query.wav'}", "top_k=3"
    dense, first = results(capsys, *query), results(capsys, *query, "rerank=0")
    assert {row["id"] for row in dense} & {row["id"] for row in first}
    assert [row["first_stage_rank"] for row in first] == [1, 2, 3]


def test_the_dense_score_is_that_of_the_model_within_the_stored_precision(world):
    from eval.search.searcher import Searcher
    from pipelines.stream.batch import collate
    from pipelines.stream.index import DatasetIndex
    from pipelines.stream.reader import ClipReader

    searcher = Searcher.open(str(world / "index"))
    query = searcher.read_query(Path(world / "query.wav"))
    found = {match.clip.id: match.score for match in searcher.search(query, top_k=100)}
    reader = ClipReader(DatasetIndex.open(world / "shards"), *searcher.model.inputs)
    batch = collate([reader.evaluation_item(4, 1)]).to("cpu")
    with torch.inference_mode():
        image = searcher.model.encode_image(batch.frames)
        exact = searcher.model.similarity_per_head(image, query.audio).sum(-1).item()
    assert found["shards/clip0004"] == pytest.approx(exact, abs=0.02 * max(found.values()))


def test_clips_are_deleted_by_ids_and_by_a_filter(copied, world, capsys):
    index, query = f"index={copied}", (f"index={copied}", f"query={world / 'query.wav'}", "top_k=100")
    before = {row["id"] for row in results(capsys, *query)}
    assert command(index, "delete=shards/clip0000,shards/clip0001") == 0
    assert before - {row["id"] for row in results(capsys, *query)} == {"shards/clip0000", "shards/clip0001"}
    assert command(index, "delete=source=shards") == 0
    assert "9 clips deleted" in capsys.readouterr().out
    assert command(index, "delete=source=shards") == 1
    _one_line(capsys, "no clip", "nothing is deleted")
    build = index, f"checkpoint={world / 'model'}", f"build={world / 'shards'}"
    assert command(*build) == 0  # they can be added again
    assert {row["id"] for row in results(capsys, *query)} == before


def test_an_emptied_index_says_that_it_is_empty(copied, world, capsys):
    assert command(f"index={copied}", "delete=source=shards") == 0
    assert command(f"index={copied}", "delete=source=files") == 0
    assert command(f"index={copied}", f"query={world / 'query.wav'}") == 2
    _one_line(capsys, "is empty", "build=")


def test_another_checkpoint_or_other_input_sizes_are_refused(world, tmp_path, capsys):
    write_model(tmp_path / "other", seed=1)
    content = json.loads((world / "model/config.json").read_text())
    content["inputs"]["image_size_px"] = 64
    shutil.copytree(world / "model", tmp_path / "larger")
    (tmp_path / "larger/config.json").write_text(json.dumps(content))
    for action in (f"build={world / 'shards'}", f"query={world / 'query.wav'}"):
        assert command(f"index={world / 'index'}", f"checkpoint={tmp_path / 'other'}", action) == 2
        _one_line(capsys, "is not the model that", "was built with")
        assert command(f"index={world / 'index'}", f"checkpoint={tmp_path / 'larger'}", action) == 2
        _one_line(capsys, "(64, 0.64, 16000)", "(32, 0.64, 16000)")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["index= is missing"]),
        (["index=I"], ["build=, query= and delete=", "none"]),
        (["index=I", "build=a", "query=b"], ["got build= and query="]),
        (["index=I", "build=a"], ["checkpoint= is missing"]),
        (["index=NEW", "query=query.wav"], ["there is no index"]),
        (["index=NEW", "delete=a"], ["there is no index"]),
        (["index=files", "query=query.wav"], ["files", "folder of other files"]),
        (["index=files", "build=shards", "checkpoint=model"], ["folder of other files"]),
        (["index=query.wav", "query=query.wav"], ["is a file"]),
        (["index=index", "query=none.wav"], ["none.wav: no such file"]),
        (["index=index", "query=files/dog/damaged.mp4"], ["damaged.mp4"]),
        (["index=index", "query=files/sky/damaged.png"], ["damaged.png"]),
        (["index=index", "query=query.wav", "where=dog"], ["allowed are label=NAME"]),
        (["index=index", "query=query.wav", "html=page.pdf"], ["ends in .html"]),
        (["index=index", "query=query.wav", "top_k=0"], ["top_k"]),
        (["index=NEW", "build=none", "checkpoint=model"], ["none: no such folder"]),
        (["index=NEW", "build=model", "checkpoint=model"], ["no videos, sounds or pictures"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, words, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(world)
    made = tmp_path / "NEW"
    assert command(*(argument.replace("NEW", str(made)) for argument in arguments)) == 2
    _one_line(capsys, *words)
    assert not made.exists()


def test_a_query_of_a_kind_that_finds_nothing_here_says_so(world, tmp_path, capsys):
    (tmp_path / "sounds").mkdir()
    write_wav(tmp_path / "sounds/a.wav", tone(1, 0.5))
    index = f"index={tmp_path / 'index'}"
    assert command(index, f"build={tmp_path / 'sounds'}", f"checkpoint={world / 'model'}") == 0
    assert command(index, f"query={world / 'query.wav'}") == 2
    _one_line(capsys, "is a sound, which finds pictures", "0 clips with a picture and 1 with a sound")
    assert command(index, f"query={world / 'files/sky/picture.png'}") == 0
    assert "1 of the 10 results" in capsys.readouterr().err


def test_sounds_unlike_the_first_ones_get_a_new_codebook(world, tmp_path, capsys):
    """Pictures alone are indexed by image cells; the first sounds are unlike these."""
    (tmp_path / "pictures").mkdir()
    shutil.copy(world / "files/sky/picture.png", tmp_path / "pictures")
    build = f"index={tmp_path / 'index'}", f"checkpoint={world / 'model'}"
    assert command(*build, f"build={tmp_path / 'pictures'}") == 0
    assert LanceStore.open(str(tmp_path / "index")).settings.generation == 0
    assert command(*build, f"build={world / 'shards'}") == 0
    store = LanceStore.open(str(tmp_path / "index"))
    assert store.settings.generation == 1 and len(store.describe().sources) == 12
    rows = results(capsys, build[0], f"query={world / 'query.wav'}", "top_k=50")
    assert len({row["id"] for row in rows}) == len(rows) == 12


def test_the_page_holds_frames_heatmaps_and_players_and_escapes_names(world, tmp_path):
    folder = tmp_path / "<b>odd & 'quoted'"
    folder.mkdir()
    write_video(folder / "a.mp4", 0.6)
    index = f"index={tmp_path / 'index'}"
    assert command(index, f"build={tmp_path}", f"checkpoint={world / 'model'}") == 0
    page = tmp_path / "page.html"
    assert command(index, f"query={world / 'query.wav'}", f"html={page}") == 0
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2 and text.count("data:audio/mpeg") == 2
    assert "<b>odd" not in text and "&lt;b&gt;odd &amp;" in text
    assert "://" not in text
    (folder / "a.mp4").unlink()
    assert command(index, f"query={world / 'query.wav'}", f"html={page}") == 0
    assert "Its media cannot be read" in page.read_text()


def test_json_goes_to_a_file_and_the_table_to_standard_output(world, tmp_path, capsys):
    query = f"index={world / 'index'}", f"query={world / 'query.wav'}", "top_k=2"
    assert command(*query, f"json={tmp_path / 'a/b.json'}") == 0
    content = json.loads((tmp_path / "a/b.json").read_text())
    assert content["kind"] == "sound" and content["directions"] == ["audio_to_image"] and len(content["results"]) == 2
    capsys.readouterr()
    assert command(*query) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "a sound, which finds pictures" in lines[0] and content["results"][0]["id"] in lines[3]


def test_stored_vectors_are_finite(world):
    store = LanceStore.open(str(world / "index"))
    ids = list(store.describe().sources)
    hits = store.nearest("image", np.ones(len(store.settings.words), np.float32), 50, _all())
    assert {hit.id for hit in hits} <= set(ids) and np.isfinite([hit.score for hit in hits]).all()


def _all():
    from eval.search.filters import Filter

    return Filter()
