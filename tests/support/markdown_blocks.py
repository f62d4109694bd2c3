"""Code blocks of Markdown pages."""

import re


def code_blocks(text: str, language: str) -> list[str]:
    """The code of all blocks of a language, in order."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [code for name, code in found if name == language]
