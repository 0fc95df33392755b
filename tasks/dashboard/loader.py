"""Loads Flower's templates, ours in `partitions/`, and Flower's navigation bar with our entry."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from pathlib import Path

from tornado.template import Loader, Template

#: The folder of our templates, which are named `partitions/…`.
TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"

NAVBAR = "navbar.html"
_LAST_ENTRY = "reverse_url('broker')"
_ENTRY_END = "</li>"
_ENTRY = """
        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'partitions' %} active{% end %}"
            href="{{ reverse_url('partitions') }}"
            {% if active_tab == 'partitions' %}aria-current="page"{% end %}>Partitions</a>
        </li>"""


class PagesLoader(Loader):
    """Replaces Flower's loader for all of its pages."""

    def _create_template(self, name: str) -> Template:
        if name == NAVBAR:
            return Template(with_entry(Path(self.root, name).read_text("utf-8")), name=name, loader=self)
        if name.startswith("partitions/"):
            return Template((TEMPLATES / name).read_bytes(), name=name, loader=self)
        return super()._create_template(name)

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Names are always full: a name in `extends` or `include` is not relative to the template."""
        return name


def with_entry(navbar: str) -> str:
    """Flower's navigation bar with Partitions after Broker. Unchanged if a new Flower no longer has that entry."""
    broker = navbar.find(_LAST_ENTRY)
    end = navbar.find(_ENTRY_END, broker)
    if broker < 0 or end < 0:
        return navbar
    end += len(_ENTRY_END)
    return navbar[:end] + _ENTRY + navbar[end:]


@cache
def static_version() -> str:
    """The version in the URLs of scripts and style sheets. It changes with an upgrade, so that browsers do not use cached old files."""
    digest = sha1(usedforsecurity=False)
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
