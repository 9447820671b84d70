"""Pages of HTML that need nothing but themselves."""

import base64
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from matplotlib.figure import Figure

from pipelines.drawing import to_jpeg_bytes, to_png_bytes

BASE = "page_base.html"
IMAGE_WIDTH_PX = 1600


def render_page(package: str, template: str, page_title: str, **content: object) -> str:
    """A page as HTML: styles and pictures inside, no script, no request to anywhere. Equal content, equal page.

    Args:
        package: Where the template lies.
        template: Its name; it extends ``page_base.html`` with the blocks lead, nav and main.
        page_title: Heading of the page.
        content: What the template names.
    """
    sources = {
        BASE: resources.files("pipelines").joinpath(BASE).read_text(encoding="utf-8"),
        template: resources.files(package).joinpath(template).read_text(encoding="utf-8"),
    }
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(page_title=page_title, **content)


def png_uri(figure: Figure | None) -> str | None:
    """A figure as the address of a picture inside the page."""
    return None if figure is None else _data_uri("image/png", to_png_bytes(figure, IMAGE_WIDTH_PX))


def jpeg_uri(figure: Figure | None) -> str | None:
    """A photograph as the address of a picture inside the page."""
    return None if figure is None else _data_uri("image/jpeg", to_jpeg_bytes(figure, IMAGE_WIDTH_PX))


def _data_uri(media_type: str, encoded: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(encoded).decode('ascii')}"
