"""Reference entries of public names (directive ``public``), and links to them (role).

``.. public:: numbattn.masks`` documents a whole module. With names in its body it
documents these, in their order; with the option ``rest``, what no other page of the
reference has: a name that is new is never missing.

The role is for single backquotes in docstrings: a link where they hold a public name.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, ClassVar

import public_names
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxDirective

BLOCK = re.compile(r"^\.\. public:: (\S+)\n((?:\n|   .*\n?)*)", re.MULTILINE)


class Public(SphinxDirective):
    """A table of names, and the entry of each."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"rest": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Return the table and the entries."""
        module = self.arguments[0]
        names = [f"{module}.{name.strip()}" for name in self.content]
        if "rest" in self.options:
            lines = rest(Path(self.env.srcdir))
        elif names:
            lines = entries(names)
        else:
            lines = whole(module)
        return self.parse_text_to_nodes("\n".join(lines))


def whole(module: str) -> list[str]:
    """Return the directives that document a module: functions, and then classes."""
    found = public_names.members(module)
    names = sorted(found, key=lambda name: inspect.isclass(found[name]))
    return [f".. automodule:: {module}", "", *entries(names)]


def entries(names: list[str]) -> list[str]:
    """Return the directives that document some names of a module."""
    found = public_names.names()
    lines = table(names)
    for name in filter(lambda name: callable(found[name]), names):
        lines += ["", *entry(name, found[name])]
    return lines


def table(names: list[str]) -> list[str]:
    """Return a table of some names of a module, each with its first line."""
    found = public_names.names()
    module = names[0].rpartition(".")[0]
    lines = [f".. py:currentmodule:: {module}", ""]
    lines += [".. autosummary::", "   :nosignatures:", ""]
    # constants have no docstring of their own: a page says what they are
    shown = filter(lambda name: callable(found[name]), names)
    return [*lines, *(f"   {name.removeprefix(f'{module}.')}" for name in shown)]


def entry(name: str, value: object) -> list[str]:
    """Return the directive that documents one name."""
    if not inspect.isclass(value):
        return [f".. autofunction:: {name}"]
    kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    shown = [*public_names.methods(value), *properties(value)]
    members = [f"   :members: {', '.join(shown)}"] if shown else []
    return [f".. {kind}:: {name}", *members]


def properties(cls: type) -> list[str]:
    """Return the names of a class's own properties."""
    return [name for name, each in vars(cls).items() if isinstance(each, property)]


def rest(folder: Path) -> list[str]:
    """Return entries of all that no page names, and a table of everything."""
    pages = "".join(page.read_text() for page in folder.glob("reference/*.rst"))
    blocks = [
        (m[1], m[2].split()) for m in BLOCK.finditer(pages) if ":rest:" not in m[2]
    ]
    done = {module for module, names in blocks if not names}
    named = {f"{module}.{name}" for module, names in blocks for name in names}
    left = [n for n in public_names.members("numbattn") if n not in named]
    lines = [".. automodule:: numbattn", "", *(entries(left) if left else [])]
    for module in public_names.modules():
        if module in {"numbattn", *done}:
            names = list(public_names.members(module))
            lines += ["", f".. rubric:: Every name of {module}", "", *table(names)]
        else:
            lines += ["", f".. rubric:: {module}", "", *whole(module)]
    return lines


def link(
    _name: str, source: str, text: str, line: int, inliner: Any, *_rest: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return what a docstring's single backquotes are: a link, or emphasis."""
    known = {*public_names.names(), *public_names.modules()}
    for name in (text, f"numbattn.{text}"):
        if name in known:
            return XRefRole()("py:obj", source, f"{text} <{name}>", line, inliner)
    return [nodes.emphasis(source, text)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and the role."""
    app.add_directive("public", Public)
    app.add_role("public", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
