"""Settings of `pipelines.verify`, `pipelines.inspect`, `pipelines.doctor` and `pipelines.stream.index`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class VerifyConfig:
    threads: int = field(0, "shards read at once; 0: one per core, 16 for a remote folder", min=0, max=256)


@dataclass
class InspectConfig:
    key: str = field("", "id of one clip to show in full; empty: a sample of clips")
    html: str = field("", "HTML page to write, with images and audio; must end in .html")
    clips: int = field(12, "number of sampled clips, evenly spaced", "clips", min=1, max=1000)


@dataclass
class DoctorConfig:
    shards: str = field("", "folder or URL of shards on which a loader worker is measured; empty: not measured")


@dataclass
class IndexConfig:
    max_member_mb: float = field(64.0, "maximum size of a member; larger ones are rejected", "MB", min=0.001, max=67)
