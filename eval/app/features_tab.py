"""The tab that shows the features of any image as colors."""

import gradio

from configs.schema import AppConfig
from eval.app.jobs import FEATURES, Features
from eval.app.localize_tab import upsampler_choice
from eval.app.session import Sessions, user_error
from eval.app.uploads import stored

EXPLANATION = (
    "The three principal components of the features as red, green and blue: patches with similar features have similar "
    "colors. Pre-trained encoders are downloaded when they are first used."
)
# Labels and names in model.encoders.registry; the first one is the image encoder of the model with its projection.
ENCODERS = (
    ("Image features of the model", ""),
    ("DINO ViT-S/8", "vit_small_patch8_224.dino"),
    ("DINO ViT-S/16", "vit_small_patch16_224.dino"),
    ("DINOv2 ViT-S/14", "vit_small_patch14_dinov2.lvd142m"),
    ("DINOv3 ViT-S/16", "vit_small_patch16_dinov3.lvd1689m"),
    ("CLIP ViT-B/16", "vit_base_patch16_clip_224.openai"),
    ("ImageNet-21k ViT-S/16", "vit_small_patch16_224.augreg_in21k"),
)
WEIGHTS = (("Pre-trained", "pretrained"), ("Random", "random"))


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
            with gradio.Row():
                encoder = gradio.Dropdown(list(ENCODERS), value="", label="Encoder", elem_id="encoder", min_width=150)
                weights = gradio.Dropdown(
                    list(WEIGHTS), value="pretrained", label="Weights", elem_id="weights", visible=False, min_width=145
                )
            upsampler = upsampler_choice(config.upsamplers, "features-upsampler", [("None: cells of the grid", "")])
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
        image: str | None, encoder: str, weights: str, upsampler: str, model: int, request: gradio.Request
    ) -> str:
        if not image:
            raise user_error("Drop a picture first.")
        folder, _ = await sessions.run(request, Features(model, image, encoder, weights == "random", upsampler))
        return str(folder / FEATURES)

    def show_weights(encoder: str) -> gradio.Dropdown:
        return gradio.Dropdown(visible=bool(encoder))

    encoder.input(show_weights, [encoder], [weights], api_visibility="private", show_progress="hidden")
    run.click(
        show,
        [image, encoder, weights, upsampler, model],
        [result],
        concurrency_id="jobs",
        concurrency_limit=config.jobs,
        api_visibility="private",
    )
    sessions.note_uploads_of(image)
