"""How pages are filled in: everything escaped, numbers and their signs kept together, one style for all pages."""

from collections.abc import Mapping
from typing import Any

from stillscape.report import words


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """Return a page of this room's templates; `css` and `words` are given to each."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("stillscape", "report")

    def kept_together(value: Any) -> Any:
        # Markup has been through here piece by piece, and would be escaped again as plain text.
        return words.kept_together(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=kept_together,
    )  # fmt: skip
    environment.globals.update(words=words, trusted=Markup)
    css = Markup(loader.get_source(environment, "style.css")[0])
    return environment.get_template(template).render(css=css, **context)
