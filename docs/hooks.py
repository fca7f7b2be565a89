"""What the site changes in pages: links to files that are not on it are their text alone."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """The pages link to examples and sources beside docs/, as readers of the repository have them."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
