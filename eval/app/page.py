"""The page: its tabs, controls and events."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio

from configs.schema import AppConfig
from eval.app.features_tab import add_features_tab
from eval.app.localize_tab import add_localize_tab
from eval.app.search_tab import add_search_tab
from eval.app.session import Sessions

TITLE = "DenseAV"
INTRODUCTION = """# Where does the sound come from?
DenseAV compares every patch of a video with every moment of its sound, and marks the patches that match what is heard.
"""
# Only fonts of the visitor's system: nothing is requested from other servers.
_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_QUEUE_POLL_S = 0.05  # Gradio looks for jobs 1000 times per second, which takes a tenth of a core
STYLE = Path(__file__).with_name("page.css")


def build_page(sessions: Sessions, config: AppConfig, examples: Sequence[Path]) -> gradio.Blocks:
    """The page with its events.

    Args:
        sessions: runs the jobs.
        config: settings of the command.
        examples: videos to try.
    """
    models = [model["name"] for model in sessions.pool.models]
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
        gradio.Markdown(INTRODUCTION, elem_id="introduction")
        with gradio.Row(visible=len(models) > 1):
            model = gradio.Dropdown(choices(models), value=0, label="Model", elem_id="model")
        with gradio.Tabs():
            with gradio.Tab("Localize"):
                add_localize_tab(sessions, config, model, examples)
            if config.index:
                with gradio.Tab("Search"):
                    add_search_tab(sessions, config, model)
            with gradio.Tab("Features"):
                add_features_tab(sessions, config, model)
        gradio.Markdown(limits_text(config), elem_id="limits")
        page.unload(sessions.end)
    page.queue(max_size=config.queue_size, default_concurrency_limit=config.jobs)
    page._queue.sleep_when_free = _QUEUE_POLL_S
    return page


def choices(names: Sequence[str]) -> list[tuple[str, int]]:
    """Choices of a dropdown whose value is the position."""
    return [(name, number) for number, name in enumerate(names)]


def limits_text(config: AppConfig) -> str:
    """The limits of uploads, in one line."""
    return (
        f"Up to {config.max_file_mb:g} MB, {config.max_duration_s:g} s and {config.max_megapixels:g} megapixels. "
        f"Files are deleted when you close this page, and after {config.keep_minutes:g} minutes."
    )


def theme() -> Any:
    """The look of the page; its colors have the contrast of WCAG 2.2, level AA."""
    look = gradio.themes.Base(
        primary_hue=gradio.themes.colors.orange,
        neutral_hue=gradio.themes.colors.slate,
        font=_SANS,
        font_mono=_MONO,
        radius_size=gradio.themes.sizes.radius_md,
    )
    return look.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
