"""Search clips by sound, picture or video.

python -m eval.search index=INDEX build=SHARDS checkpoint=runs/demo     adds built shards, or a folder of media files
python -m eval.search index=INDEX query=dog.wav html=dog.html           a sound finds pictures; a picture finds sounds
python -m eval.search index=INDEX query=in.mp4 where=label=dog          a video finds both
python -m eval.search index=INDEX delete=source=audioset                deletes clips, by ids or a filter

An interrupted build continues with the same command. Without html and json, results are printed as a table.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import SearchConfig

ACTIONS = ("build", "query", "delete")


def main(config: SearchConfig) -> None:
    """Build, query or delete."""
    if not config.index:
        raise UsageError("index= is missing")
    actions = [action for action in ACTIONS if getattr(config, action)]
    if len(actions) != 1:
        given = " and ".join(f"{action}=" for action in actions) or "none"
        raise UsageError(f"one of build=, query= and delete= is needed, got {given}")
    {"build": _build, "query": _query, "delete": _delete}[actions[0]](config)


def _build(config: SearchConfig) -> None:
    from eval.search.build import build_index
    from eval.search.lance_store import import_lancedb
    from model.hub import load_pretrained

    if not config.checkpoint:
        raise UsageError("checkpoint= is missing: build= encodes clips with it")
    import_lancedb()
    model = load_pretrained(config.checkpoint).model
    added, total = build_index(config.index, config.build, config.checkpoint, model, config.batch_size)
    print(f"{config.index}: {added} clips added, {total} in all")


def _delete(config: SearchConfig) -> None:
    from eval.search.build import lock_index
    from eval.search.filters import parse_selection
    from eval.search.lance_store import LanceStore

    selection = parse_selection(config.delete, "delete")
    LanceStore.open(config.index)  # before the lock, which creates the folder
    with lock_index(config.index):
        deleted = LanceStore.open(config.index).delete(selection)
    if not deleted:
        raise CommandFailed(f"delete={config.delete}: no clip of index={config.index} matches, nothing is deleted")
    print(f"{config.index}: {deleted} clips deleted")


def _query(config: SearchConfig) -> None:
    from eval.search.filters import parse_filter
    from eval.search.lance_store import import_lancedb
    from eval.search.results import format_table, to_json, write_text

    if config.html and not config.html.endswith(".html"):
        raise UsageError(f"html={config.html}: the name of a page ends in .html")
    where = parse_filter(config.where, "where")
    import_lancedb()
    from eval.search.searcher import Searcher

    searcher = Searcher.open(config.index, config.checkpoint)
    query = searcher.read_query(Path(config.query))
    matches = searcher.search(query, config.top_k, config.rerank, where)
    if config.html:
        from eval.search.page import render_page

        write_text(Path(config.html), render_page(searcher, query, matches, config.where))
        print(f"wrote {config.html}", file=sys.stderr)
    if config.json:
        text = to_json(query, matches, config)
        write_text(Path(config.json), text) if config.json != "-" else print(text)
    if not (config.html or config.json):
        print(format_table(query, matches))
    if len(matches) < config.top_k:
        found = f"{len(matches)} of the {config.top_k} results asked for: no more clips"
        print(f"{found} {'pass the filter' if config.where else 'in the index'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run(SearchConfig, __doc__, main))
