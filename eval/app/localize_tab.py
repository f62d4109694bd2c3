"""The tab that shows where in a video, or in a picture, a sound comes from."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio

from configs.schema import AppConfig
from eval.app.jobs import VIDEO, LocalizeImage, LocalizeVideo
from eval.app.session import Sessions, user_error
from eval.app.timeline import timeline_html
from eval.app.uploads import result_video, stored

VIEWS = {
    "heatmap": "Heatmap",
    "heads": "All heads, one color each",
    "head": "Head {}",
    "side_by_side": "Side by side",
    "features": "Features",
    "audio": "Audio features",
}
Source = dict[str, str]  # the uploads of a job, by their names in LocalizeVideo or LocalizeImage


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
                video = stored(gradio.Video(label="Video with sound", elem_id="video"))
                run_video = gradio.Button("Localize", variant="primary", elem_id="run-video")
                clips = gradio.Examples([[str(path)] for path in examples], [video]) if examples else None
            with gradio.Tab("Picture and sound"):
                image = stored(gradio.Image(label="Picture", type="filepath", height=220, elem_id="image", buttons=[]))
                sound = stored(gradio.Audio(label="Sound", type="filepath", elem_id="sound", buttons=[]))
                run_image = gradio.Button("Localize", variant="primary", elem_id="run-image")
        with gradio.Column(scale=3, min_width=300):
            views = view_choices(sessions.pool.models[0]["heads"])
            with gradio.Row():
                view = gradio.Dropdown(views, value=views[0][1], label="View", elem_id="view", min_width=150)
                upsampler = upsampler_choice(config.upsamplers, "upsampler")
            result = result_video(
                gradio.Video(label="Result", autoplay=True, height=380, interactive=False, elem_id="result", buttons=[])
            )
            timeline = gradio.HTML(elem_id="timeline", visible=False)
            download = gradio.DownloadButton("Download the video", visible=False, elem_id="download")

    async def show(
        source: Source | None, view: str, upsampler: str, model: int, request: gradio.Request
    ) -> tuple[Any, ...]:
        if source is None:
            return None, None, gradio.HTML(visible=False), gradio.DownloadButton(visible=False)
        kind, _, head = view.partition(":")
        options: dict[str, Any] = {"model": model, "view": kind, "head": int(head) if head else None}
        options["upsampler"] = upsampler
        options |= source
        job = LocalizeVideo(**options) if "video" in source else LocalizeImage(**options)
        folder, found = await sessions.run(request, job)
        if note := found.pop("note"):
            gradio.Warning(html.escape(note))
        timeline = gradio.HTML(timeline_html(**found), visible=True) if found else gradio.HTML(visible=False)
        path = str(folder / VIDEO)
        return source, path, timeline, gradio.DownloadButton(value=path, visible=True)

    async def show_video(
        video: str | None,
        view: str,
        upsampler: str,
        model: int,
        request: gradio.Request,
    ) -> tuple[Any, ...]:
        if not video:
            raise user_error("Drop or record a video first.")
        return await show({"video": video}, view, upsampler, model, request)

    async def show_image(
        image: str | None,
        sound: str | None,
        view: str,
        upsampler: str,
        model: int,
        request: gradio.Request,
    ) -> tuple[Any, ...]:
        if not image or not sound:
            raise user_error("Drop a picture and a sound first.")
        return await show({"image": image, "sound": sound}, view, upsampler, model, request)

    def update_views(model: int) -> gradio.Dropdown:
        views = view_choices(sessions.pool.models[model]["heads"])
        return gradio.Dropdown(views, value=views[0][1])

    outputs = [source, result, timeline, download]
    job: dict[str, Any] = {
        "concurrency_id": "jobs",
        "concurrency_limit": config.jobs,
        "api_visibility": "private",
        "show_progress_on": [result],
    }
    run_video.click(show_video, [video, view, upsampler, model], outputs, **job)
    run_image.click(show_image, [image, sound, view, upsampler, model], outputs, **job)
    for choice in (view, upsampler):
        choice.input(show, [source, view, upsampler, model], outputs, **job)
    model.input(update_views, [model], [view], api_visibility="private").then(
        show, [source, view, upsampler, model], outputs, **job
    )
    if clips:
        clips.load_input_event.then(show_video, [video, view, upsampler, model], outputs, **job)
    for component in (video, image, sound):
        sessions.note_uploads_of(component)


def upsampler_choice(names: str, elem_id: str, extra: Sequence[tuple[str, str]] = ()) -> gradio.Dropdown:
    """Select one of the upsamplers of the page.

    Args:
        names: separated by commas; folders are shown by their last part.
        extra: labels and values that come first.
    """
    choices = [*extra, *((Path(name).name, name) for name in names.split(","))]
    return gradio.Dropdown(
        choices, value=choices[0][1], label="Upsampler", elem_id=elem_id, visible=len(choices) > 1, min_width=120
    )


def view_choices(heads: int) -> list[tuple[str, str]]:
    """The views of a model with a number of heads: their labels and values, such as (Head 0, head:0)."""
    if heads == 1:
        return [(label, view) for view, label in VIEWS.items() if view not in ("head", "heads")]
    choices: list[tuple[str, str]] = []
    for view, label in VIEWS.items():
        each = [(label.format(head), f"head:{head}") for head in range(heads)]
        choices += each if view == "head" else [(label, view)]
    return choices
