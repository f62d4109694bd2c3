"""The tab that shows the features of any image as colors."""

from pathlib import Path

import gradio

from configs.schema import AppConfig
from eval.app.jobs import Features
from eval.app.session import Sessions, user_error
from eval.app.uploads import StoredImage

SPACES = [("Shared space of image and audio", "shared"), ("Image encoder", "encoder")]
EXPLANATION = (
    "The three principal components of the features, as red, green and blue: patches of one color have similar features."
)


def add_features_tab(sessions: Sessions, config: AppConfig, model: gradio.Dropdown) -> None:
    """Add the components and events of the tab.

    Args:
        sessions: runs the jobs.
        config: settings of the command.
        model: selects one of the models.
    """
    with gradio.Row(equal_height=False):
        with gradio.Column(min_width=300):
            image = StoredImage(label="Picture", type="filepath", height=360, elem_id="features-image", buttons=[])
            space = gradio.Dropdown(SPACES, value=SPACES[0][1], label="Features", elem_id="space")
            run = gradio.Button("Show features", variant="primary", elem_id="run-features")
        with gradio.Column(min_width=300):
            result = gradio.Image(label="Features", type="filepath", height=360, interactive=False,
                                  elem_id="features-result", buttons=["download", "fullscreen"])
            gradio.Markdown(EXPLANATION)

    async def show(image: str | None, space: str, model: int, request: gradio.Request,
                   progress: gradio.Progress = gradio.Progress()) -> str:  # noqa: B008
        if not image:
            raise user_error("Drop a picture first.")
        found = await sessions.run(request, progress, Features(model, image, space))
        return str(Path(found["folder"]) / found["image"])

    run.click(show, [image, space, model], [result], concurrency_id="jobs", concurrency_limit=config.jobs,
              api_visibility="private")
    image.change(sessions.note_upload, [image], None, queue=False, api_visibility="private", show_progress="hidden")
