"""Pages as markup: whether tags are balanced, and whether all that they need is in them."""

import re
from html.parser import HTMLParser

from fluidgate.report.html import VOID


class Balanced(HTMLParser):
    """Fails on a tag that is closed but not open, and keeps the text and the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def parsed(text: str) -> Balanced:
    page = Balanced()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def assert_self_contained(text: str) -> None:
    """Nothing is loaded, and every link leads to one place on the page."""
    page = parsed(text)
    assert not any(name == "src" for name, _ in page.attributes)
    anchors = [value for name, value in page.attributes if name == "id"]
    assert len(anchors) == len(set(anchors))
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert links
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in text
