"""Pages: one HTML file each, with everything inside, made by Jinja from plain parts.

The parts are what a page can hold; what they say is decided elsewhere. Texts are escaped by Jinja.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ..errors import printable
from ..files import written_whole

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Figure:
    """A drawing, and what it shows in words."""

    svg: str
    """An `<svg>` element of our own making: it is not escaped."""
    title: str
    text: str
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Figures:
    """Drawings side by side where there is room."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False
    """Shown only on request."""
    shades: Sequence[Sequence[float]] = ()
    """How strongly to shade the cells after the first of each row, 0…1."""
    links: Sequence[str] = ()
    """Where each row's name leads, relative to the page."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Card:
    """A photo, and what there is to say about it."""

    picture: str | None
    """A `data:` URI; None if the photo is not at hand."""
    alt: str
    title: str
    text: str


@dataclass(frozen=True)
class Cards:
    """Photos in a grid."""

    cards: Sequence[Card]
    small: bool = False
    kind: ClassVar[str] = "cards"


Part: TypeAlias = Text | Code | Figure | Figures | Table | Cards


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return "".join(sign if sign.isalnum() else "-" for sign in self.title.lower())


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    lead: Sequence[str]
    """What matters most, in a sentence or two each."""
    first: Sequence[Part]
    """What is seen before any heading."""
    sections: Sequence[Section]
    foot: str


def write_page(path: Path, page: Page) -> None:
    """Write a page, complete or not at all.

    Raises:
        OSError: it cannot be written.
    """
    html = _environment().get_template("page.html").render(page=page)
    with written_whole(path) as file:
        file.write(html)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("catdog_jax.reports"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["number"] = _is_number
    return environment


def _printable(value: Any) -> Any:
    """A text with unprintable characters escaped: names of files may hold them."""
    is_html = hasattr(value, "__html__")  # of our own macros, and drawings
    return printable(value) if isinstance(value, str) and not is_html else value


def _is_number(cell: Any) -> bool:
    """Whether a cell begins with a number, and so is set to the right."""
    return str(cell).lstrip("+-")[:1].isdigit()
