"""The tab that shows the features of any image as colors."""

import gradio

from configs.schema import AppConfig
from eval.app.jobs import FEATURES, Features
from eval.app.session import Sessions, user_error
from eval.app.uploads import stored

EXPLANATION = "The three principal components of the features as red, green and blue: similar patches have one color."


def add_features_tab(sessions: Sessions, config: AppConfig, model: gradio.Dropdown) -> None:
    """Add the components and events of the tab.

    Args:
        sessions: runs the jobs.
        config: settings of the command.
        model: selects one of the models.
    """
    with gradio.Row(equal_height=False):
        with gradio.Column(min_width=300):
            image = stored(
                gradio.Image(label="Picture", type="filepath", height=360, elem_id="features-image", buttons=[])
            )
            run = gradio.Button("Show features", variant="primary", elem_id="run-features")
        with gradio.Column(min_width=300):
            result = gradio.Image(
                label="Features",
                type="filepath",
                height=360,
                interactive=False,
                elem_id="features-result",
                buttons=["download", "fullscreen"],
            )
            gradio.Markdown(EXPLANATION, elem_classes="note")

    async def show(
        image: str | None,
        model: int,
        request: gradio.Request,
    ) -> str:
        if not image:
            raise user_error("Drop a picture first.")
        folder, _ = await sessions.run(request, Features(model, image))
        return str(folder / FEATURES)

    run.click(
        show,
        [image, model],
        [result],
        concurrency_id="jobs",
        concurrency_limit=config.jobs,
        api_visibility="private",
    )
    sessions.note_uploads_of(image)
