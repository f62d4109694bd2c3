"""The tab that shows where in a video, or in a picture, a sound comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio

from configs.schema import AppConfig
from eval.app.jobs import LocalizeImage, LocalizeVideo
from eval.app.session import Sessions, user_error
from eval.app.uploads import ResultVideo, StoredAudio, StoredImage, StoredVideo

VIEWS = {
    "heatmap": "Heatmap",
    "heads": "All heads, one color each",
    "head": "Head {}",
    "side_by_side": "Side by side",
    "features": "Features",
    "audio": "Audio features",
}


def add_localize_tab(sessions: Sessions, config: AppConfig, model: gradio.Dropdown, examples: Sequence[Path]) -> None:
    """Add the components and events of the tab.

    Args:
        sessions: runs the jobs.
        config: settings of the command.
        model: selects one of the models.
        examples: videos to try.
    """
    source = gradio.State(None)  # what the result shows: another view of it needs no upload
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=2, min_width=300), gradio.Tabs():
            with gradio.Tab("Video"):
                video = StoredVideo(label="Video with sound", height=280, elem_id="video")
                run_video = gradio.Button("Localize", variant="primary", elem_id="run-video")
                if examples:
                    clips = gradio.Examples([[str(path)] for path in examples], [video], label="Examples")
            with gradio.Tab("Picture and sound"):
                image = StoredImage(label="Picture", type="filepath", height=220, elem_id="image", buttons=[])
                sound = StoredAudio(label="Sound", type="filepath", elem_id="sound", buttons=[])
                run_image = gradio.Button("Localize", variant="primary", elem_id="run-image")
        with gradio.Column(scale=3, min_width=300):
            views = view_choices(sessions.pool.models[0]["heads"])
            view = gradio.Dropdown(views, value=views[0][1], label="View", elem_id="view")
            result = ResultVideo(label="Result", autoplay=True, height=360, interactive=False, elem_id="result",
                                 buttons=[])
            plot = gradio.LinePlot(
                x="time (s)", y="similarity", color="head", height=170, label="Similarity over time", elem_id="plot",
                buttons=[],
            )
            download = gradio.DownloadButton("Download the video", visible=False, elem_id="download")

    outputs = [source, result, plot, download]

    async def show(source: dict[str, str] | None, view: str, model: int, request: gradio.Request,
                   progress: gradio.Progress) -> tuple[Any, ...]:
        if source is None:
            return None, None, None, gradio.DownloadButton(visible=False)
        kind, _, head = view.partition(":")
        options = {"model": model, "view": kind, "head": int(head) if head else None}
        job = LocalizeVideo(**source, **options) if "video" in source else LocalizeImage(**source, **options)
        found = await sessions.run(request, progress, job)
        path = str(Path(found["folder"]) / found["video"])
        return source, path, _table(found), gradio.DownloadButton(value=path, visible=True)

    async def show_video(video: str | None, view: str, model: int, request: gradio.Request,
                         progress: gradio.Progress = gradio.Progress()) -> tuple[Any, ...]:  # noqa: B008
        if not video:
            raise user_error("Drop or record a video first.")
        return await show({"video": video}, view, model, request, progress)

    async def show_image(image: str | None, sound: str | None, view: str, model: int, request: gradio.Request,
                         progress: gradio.Progress = gradio.Progress()) -> tuple[Any, ...]:  # noqa: B008
        if not image or not sound:
            raise user_error("Drop a picture and a sound first.")
        return await show({"image": image, "sound": sound}, view, model, request, progress)

    async def show_again(source: dict[str, str] | None, view: str, model: int, request: gradio.Request,
                         progress: gradio.Progress = gradio.Progress()) -> tuple[Any, ...]:  # noqa: B008
        return await show(source, view, model, request, progress)

    def update_views(model: int) -> gradio.Dropdown:
        views = view_choices(sessions.pool.models[model]["heads"])
        return gradio.Dropdown(views, value=views[0][1])

    job: dict[str, Any] = {"concurrency_id": "jobs", "concurrency_limit": config.jobs, "api_visibility": "private",
                           "show_progress_on": [result]}
    run_video.click(show_video, [video, view, model], outputs, **job)
    run_image.click(show_image, [image, sound, view, model], outputs, **job)
    view.input(show_again, [source, view, model], outputs, **job)
    model.input(update_views, [model], [view], api_visibility="private").then(
        show_again, [source, view, model], outputs, **job
    )
    if examples:
        clips.load_input_event.then(show_video, [video, view, model], outputs, **job)
    for component in (video, image, sound):
        component.change(sessions.note_upload, [component], None, queue=False, api_visibility="private", show_progress="hidden")


def view_choices(heads: int) -> list[tuple[str, str]]:
    """The views of a model with a number of heads: their labels and values, such as (Head 1, head:0)."""
    names = [(label, view) for view, label in VIEWS.items() if view != "head" and (heads > 1 or view != "heads")]
    each = [(VIEWS["head"].format(head + 1), f"head:{head}") for head in range(heads)] if heads > 1 else []
    return names[:2] + each + names[2:]


def _table(found: dict[str, Any]) -> Any:
    """The similarity of each head over time, as a table for the plot."""
    import pandas

    heads = found["similarity"]
    return pandas.DataFrame(
        {
            "time (s)": [time_s for _ in heads for time_s in found["times_s"]],
            "similarity": [value for values in heads for value in values],
            "head": [str(number + 1) for number, values in enumerate(heads) for _ in values],
        }
    )
