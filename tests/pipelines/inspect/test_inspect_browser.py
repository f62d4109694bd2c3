"""The page of pipelines.inspect in a browser."""

import pytest
from chromium import chromium, needs_chromium
from tiny_inspect import inspect

WIDTH = "image => image.getBoundingClientRect().width"


@pytest.mark.slow
@needs_chromium
def test_a_frame_is_enlarged_by_a_click_or_the_space_bar_and_a_second_one_closes_it(out, tmp_path, capsys):
    inspect(capsys, out, html=str(tmp_path / "page.html"), clips=2)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.goto((tmp_path / "page.html").as_uri())
        image = page.locator("figure img").nth(1)
        small_px = image.evaluate(WIDTH)
        for act in (image.click, lambda: page.keyboard.press("Space")):
            act()
            assert image.evaluate(WIDTH) == 1000
            act()
            assert image.evaluate(WIDTH) == small_px < 500
        assert page.evaluate("document.documentElement.scrollWidth") == 1000
