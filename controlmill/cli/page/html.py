"""Pieces of HTML; text is escaped here, once."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Column(NamedTuple):
    """A column of a table: its head, and how its cells are set ("number", "wide", "bar")."""

    head: str
    kind: str = ""


Cell = str | Html


def text(value: object) -> Html:
    """A value as HTML."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def element(name: str, *content: object, **attributes: str) -> Html:
    """An element; attributes whose name ends in "_" lose it, as `class_`."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{''.join(text(one) for one in content)}</{name}>")


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Html:
    """A table that scrolls on its own where it is too wide."""
    head = [element("th", column.head, class_=column.kind) for column in columns]
    body = [
        element("tr", *(element("td", cell, class_=column.kind) for column, cell in zip(columns, row, strict=True)))
        for row in rows
    ]
    made = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", made, class_="scroll")


def facts(pairs: Iterable[tuple[str, Cell]]) -> Html:
    """What is known at a glance."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_="facts"
    )


def section(title: str, *content: object) -> Html:
    """A part of the page with a heading."""
    return element("section", element("h2", title), *content)


def data_uri(content: bytes, kind: str) -> str:
    """A file inside of the page; `kind` as in "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image(content: bytes, kind: str, alt: str, **attributes: str) -> Html:
    """A picture inside of the page."""
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f'<img src="{data_uri(content, kind)}" alt="{escape(alt)}"{given}>')
