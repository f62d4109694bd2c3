"""Settings of `python -m eval.workspace`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class WorkspaceConfig:
    entity: str = field("", "W&B user or team that owns the project")
    project: str = field("denseav", "W&B project; trainings and evaluations log to denseav")
    name: str = field("DenseAV", "name of the new view")
    benchmarks: list[str] = field(
        list, "published benchmarks and own data sets whose pictures are shown; empty: all published ones"
    )
