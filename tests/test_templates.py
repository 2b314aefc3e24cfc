"""The templates of the pages: nothing that is written by them gets past plain text and escaping."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePosixPath

import pytest
from jinja2 import Environment, UndefinedError, nodes
from jinja2.exceptions import TemplateAssertionError
from markupsafe import Markup as OtherMarkup

from l2a_transfer.report import templates
from l2a_transfer.report.markup import Markup, element

HOSTILE = "<b>\"'&\u202e\x00\ud800\u200b"
SHOWN = "&lt;b&gt;&#34;&#39;&amp;\ufffd\ufffd\ufffd\ufffd"
FOLDER = files("l2a_transfer.report").joinpath("templates")
NAMES = templates._environment().list_templates()


def rendered(source: str, **values: object) -> str:
    return templates._environment().from_string(source).render(**values)


def test_there_is_a_template_for_every_section() -> None:
    from l2a_transfer.report.page import TITLES

    found = {PurePosixPath(name).name.removesuffix(".html.j2") for name in NAMES if name.startswith("report/")}
    assert found == set(TITLES)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_uses_nothing_that_escapes_by_other_rules(name: str) -> None:
    """`~` would join text to markup with Jinja's own escaping, `{% autoescape %}` would switch it off."""
    tree = templates._environment().parse(FOLDER.joinpath(name).read_text(encoding="utf-8"))
    kinds = (nodes.Concat, nodes.ScopedEvalContextModifier, nodes.EvalContextModifier, nodes.MarkSafe)
    assert not [node for kind in kinds for node in tree.find_all(kind)]
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    assert filters <= set(templates._environment().filters)


@pytest.mark.parametrize("name", ["safe", "e", "escape", "join", "format", "xmlattr", "tojson", "replace", "urlize"])
def test_filters_that_would_get_past_it_are_not_there(name: str) -> None:
    assert name in Environment().filters
    with pytest.raises(TemplateAssertionError, match=f"No filter named '{name}'"):
        rendered("{{ value|" + name + " }}", value="x")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("{{ value }}", SHOWN),
        ('<a title="{{ value }}">', f'<a title="{SHOWN}">'),
        ("{% set kept %}{{ value }}{% endset %}{{ kept }}", SHOWN),
        ("{% macro show(text) %}{{ text }}{% endmacro %}{{ show(value) }}", SHOWN),
        ("{% macro box() %}[{{ caller() }}]{% endmacro %}{% call box() %}{{ value }}{% endcall %}", f"[{SHOWN}]"),
        ("{{ value.upper() }}", SHOWN.replace("b", "B").replace("&LT;", "&lt;")),
        ("{{ 1200 }}", "1200"),
    ],
)
def test_a_value_is_made_plain_and_escaped(source: str, shown: str) -> None:
    assert rendered(source, value=HOSTILE) == shown


def test_markup_is_written_as_it_is() -> None:
    assert rendered("{{ value }}", value=element("i", HOSTILE)) == (
        "<i>&lt;b&gt;&quot;&#x27;&amp;\ufffd\ufffd\ufffd\ufffd</i>"
    )


@pytest.mark.parametrize("value", [None, 0.1, ["a"]])
def test_what_has_no_text_of_its_own_is_a_mistake(value: object) -> None:
    with pytest.raises(TypeError, match="a template may only output text, markup and integers; got"):
        rendered("{{ value }}", value=value)


def test_a_name_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'value' is undefined"):
        rendered("{{ value }}")
    with pytest.raises(UndefinedError, match="has no attribute 'other'"):
        rendered("{% if value.other %}{% endif %}", value=element("i"))


def test_text_that_is_put_into_markup_is_escaped() -> None:
    """By whichever of a text's own operations it gets there."""
    start, escaped = Markup("<i>"), "&lt;\ufffd"
    for found in (
        start + "<\u202e",
        start.join(["", "<\u202e"])[3:] and start + Markup("").join(["<\u202e"]),
        start + Markup("%s") % "<\u202e",
        start + Markup("{}").format("<\u202e"),
        start + Markup("x").replace("x", "<\u202e"),
    ):
        assert found == f"<i>{escaped}"
    assert Markup.escape(OtherMarkup("<br>")) == "<br>"
