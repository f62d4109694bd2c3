"""The tab that finds clips of an index by a sound, a picture or a video."""

import html

import gradio

from configs.schema import AppConfig
from eval.app.jobs import RESULTS, Search
from eval.app.session import Sessions, user_error
from eval.app.uploads import stored

EXPLANATION = "A sound finds pictures, a picture finds sounds, a video finds both."


def add_search_tab(sessions: Sessions, config: AppConfig, model: gradio.Dropdown) -> None:
    """Add the components and events of the tab.

    Args:
        sessions: runs the jobs.
        config: settings of the command; its index is searched.
        model: selects one of the models; the index is that of one of them.
    """
    with gradio.Row(equal_height=False):
        with gradio.Column(scale=2, min_width=300):
            kinds = ["audio", "image", "video"]
            query = stored(gradio.File(label="Sound, picture or video", file_types=kinds, height=180, elem_id="query"))
            gradio.Markdown(EXPLANATION, elem_classes="note")
            run = gradio.Button("Search", variant="primary", elem_id="run-search")
        with gradio.Column(scale=5, min_width=300):
            result = gradio.HTML(elem_id="search-result")

    async def show(query: str | None, model: int, request: gradio.Request) -> str:
        if not query:
            raise user_error("Drop a sound, a picture or a video first.")
        folder, _ = await sessions.run(request, Search(model, query, config.index))
        page = html.escape((folder / RESULTS).read_text())
        # Without scripts: labels and texts of clips come from data sets.
        return f'<iframe sandbox srcdoc="{page}" title="Results"></iframe>'

    run.click(
        show,
        [query, model],
        [result],
        concurrency_id="jobs",
        concurrency_limit=config.jobs,
        api_visibility="private",
    )
    sessions.note_uploads_of(query)
