"""Settings of `python -m eval.search`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class SearchConfig:
    index: str = field("", "folder of the index, or a URL such as s3://bucket/index")
    checkpoint: str = field(
        "", "run, step or exported folder, released .ckpt, or a published name; empty: that of the index"
    )
    build: str = field("", "built shards, or a folder of videos, sounds and pictures, to add to the index")
    query: str = field("", "sound, picture or video to search with")
    delete: str = field("", "clips to delete: ids separated by commas, or a filter as in where")
    where: str = field(
        "", "filter of a query: label=NAME, source=NAME, id=NAME, separated by commas; all labels, any source or id"
    )
    top_k: int = field(10, "results of a query", "clips", min=1, max=10_000)
    rerank: int = field(
        200, "best clips of the first stage that get their exact dense score; 0: none", "clips", min=0, max=10_000
    )
    html: str = field("", "HTML page of the results to write, with players and heatmaps; must end in .html")
    json: str = field("", "JSON file of the results to write; -: standard output")
    batch_size: int = field(32, "clips encoded at once", "clips", min=1, max=4096)
