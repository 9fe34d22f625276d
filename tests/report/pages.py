"""Reading pages back."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "wbr"}


class Page(HTMLParser):
    """Collects the tags, the text and the tables of a page, and checks that tags are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def row(self, heading: str, table: int = 0) -> list[str]:
        """The cells of the first row with a heading, of the so-manieth table that has it."""
        found = [row for rows in self.tables for row in rows if row and row[0] == heading]
        return found[table][1:]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.text += data + "\n"
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += f" {data}" if self.tables[-1][-1][-1] else data
