"""Make the W&B workspace of a project: `python -m eval.workspace entity=TEAM project=denseav`

Saves a new view with the sections losses, heads, optimization, data loading, throughput and MFU, evaluation, pictures
and videos, and prints its address. Needs the package wandb-workspaces and a W&B key. Each call makes another view.

Tested offline: the panels against the keys that a run logs, and the request that carries the view, against a local
server. Whether W&B accepts the view and how it looks needs W&B itself.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import WorkspaceConfig

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


class LinePanel(NamedTuple):
    """Line plots over the training step of all keys that a regular expression (RE2) matches."""

    title: str
    regex: str


# A metric of the model is eval/TASK/VARIANT/METRIC; a baseline has its name before TASK.
SECTIONS: dict[str, Sequence[LinePanel]] = {
    "Losses": (
        LinePanel("Total loss", r"^loss/total$"),
        LinePanel("Loss terms, unweighted", r"^loss/"),
        LinePanel("In-batch accuracy", r"^accuracy$"),
        LinePanel("Scores of matching and other pairs", r"^scores/"),
        LinePanel("Logit scale", r"^logit_scale$"),
    ),
    "Heads": (LinePanel("Fraction of audio steps won by each head", r"^heads/win_rate_\d+$"),),
    "Optimization": (
        LinePanel("Learning rate", r"^lr(/|$)"),
        LinePanel("Gradient norm", r"^grad_norm$"),
        LinePanel("Gradient norm by module", r"^grad_norm/"),
        LinePanel("Skipped steps", r"^skipped_steps$"),
    ),
    "Data loading": (
        LinePanel("Fraction of time spent waiting for data", r"^data_time_fraction$"),
        LinePanel("Rejected clips by reason", r"^rejected/"),
    ),
    "Throughput and MFU": (
        LinePanel("Clips per second", r"^clips_per_s$"),
        LinePanel("Model FLOPs utilization", r"^mfu$"),
        LinePanel("Peak memory (GB)", r"^memory/"),
    ),
    "Evaluation": (
        LinePanel("Recall@1", r"^eval/[^/]+/[^/]+/recall_at_1$"),
        LinePanel("Recall@10", r"^eval/[^/]+/[^/]+/recall_at_10$"),
        LinePanel("mAP", r"^eval/[^/]+/[^/]+/map$"),
        LinePanel("mIoU", r"^eval/[^/]+/[^/]+/miou"),
        LinePanel("cIoU and IoU AUC", r"^eval/[^/]+/[^/]+/(ciou|auc|iiou|iauc)$"),
        LinePanel("Disentanglement of heads", r"^eval/[^/]+/heads/"),
        LinePanel("All metrics of the model", r"^eval/[^/]+/[^/]+/[^/]+$"),
        LinePanel("Baselines", r"^eval/[^/]+/[^/]+/[^/]+/[^/]+$"),
    ),
}
PICTURES, TABLES = "Pictures and videos", "Best results"


def main(config: WorkspaceConfig) -> None:
    """Build the workspace and save it to W&B."""
    from model.training.tracking import has_wandb_key, one_line

    if not config.entity:
        raise UsageError("entity= is missing: give the W&B user or team that owns the project")
    workspace = build_workspace(config)
    if not has_wandb_key():
        raise CommandFailed("W&B has no key: run `wandb login` or set WANDB_API_KEY")
    try:
        workspace.save()
        print(f"workspace: {workspace.url}")
    except Exception as error:  # W&B's errors have no common base
        raise CommandFailed(
            f"W&B did not save the view of {config.entity}/{config.project}: {one_line(error)}"
        ) from None


def build_workspace(config: WorkspaceConfig) -> "Workspace":
    """The workspace as an object of wandb-workspaces, without a connection to W&B.

    Raises:
        UsageError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UsageError("the package wandb-workspaces is not installed: pip install wandb-workspaces") from None
    from eval.benchmarks.registry import KINDS

    sections = [
        workspaces.Section(
            name=name,
            panels=[panels.LinePlot(title=line.title, metric_regex=line.regex) for line in lines],
            is_open=True,
        )
        for name, lines in SECTIONS.items()
    ]
    keys = picture_keys(config.benchmarks or list(KINDS))
    tables = [panels.WeavePanelSummaryTable(table_name=key) for key in keys.pop(TABLES)]
    browsers = [panels.MediaBrowser(title=title, media_keys=list(found)) for title, found in keys.items()]
    sections.append(workspaces.Section(name=PICTURES, panels=[*browsers, *tables], is_open=True))
    return workspaces.Workspace(
        entity=config.entity,
        project=config.project,
        name=config.name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="Step", group_by_prefix="first", max_runs=20),
    )


def picture_keys(benchmarks: Sequence[str]) -> dict[str, list[str]]:
    """The keys of videos, images and tables that evaluations of these benchmarks log, by title of their panel.

    The list `TABLES` is of tables, one panel each. Own data sets may be of retrieval, so they have all kinds of keys.
    """
    from eval.benchmarks.registry import KINDS

    retrieval = [name for name in benchmarks if name not in KINDS or name.endswith("retrieval")]
    return {
        "Heatmap video": ["media/heatmap"],
        "Heatmaps": [f"media/{name}/heatmaps" for name in benchmarks],
        "Similarity of pairs": [f"media/{name}/similarity" for name in retrieval],
        TABLES: [f"media/{name}/best" for name in retrieval],
    }


if __name__ == "__main__":
    sys.exit(run(WorkspaceConfig, __doc__, main))
