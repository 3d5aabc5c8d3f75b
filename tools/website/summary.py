"""The static summary: a comparison with peers, and a chart of each headline figure."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path
from string import Template

from .charts import chart, described
from .comparison import groups, in_words, peers_in_words
from .figures import FIGURES, PEERS, in_digits
from .measured import Measured

_PAGE = Path(__file__).with_name("summary.html")
_LINKS = {
    "../index.html": "Documentation",
    "../history/index.html": "Every benchmark, with history (needs JavaScript)",
}


def write(measured: Measured, into: Path) -> None:
    """Write index.html and the charts.

    Parameters
    ----------
    measured : Measured
        The results.
    into : Path
        The folder to write, replaced as a whole. The page links to the documentation
        and to asv's pages where they stand beside it.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for figure in FIGURES:
        drawn = chart(figure, measured.commits, measured.series(figure.benchmark))
        (into / f"{figure.name}.svg").write_text(drawn, encoding="utf-8")
    links = [
        f'<a href="{to}">{text}</a>'
        for to, text in _LINKS.items()
        if (into / to).is_file()
    ]
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        links=" · ".join(links),
        machine=escape(measured.machine_in_words),
        comparison=_comparison(measured),
        newest=measured.commits[-1].label,
        charts="\n".join(_figure(measured, i) for i in range(len(FIGURES))),
        values=_values(measured),
    )
    (into / "index.html").write_text(page, encoding="utf-8")


def _comparison(measured: Measured) -> str:
    found = groups(measured)
    if not found:
        return "<p>Not measured yet.</p>"
    peers = peers_in_words(measured).values()
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in peers)
    rows = [f'<thead><tr><th scope="col">times faster than</th>{heads}</tr></thead>']
    for group in found:
        rows.append(
            f'<tbody><tr><th class="group" colspan="{len(PEERS) + 1}" scope="rowgroup">'
            f"{group.operation.title} <small>at {group.commit.label}: "
            f"{escape(group.operation.about)}</small></th></tr>"
        )
        for problem, against in group.rows.items():
            cells = "".join(_cell(against.get(peer)) for peer in PEERS)
            rows.append(f'<tr><th scope="row">{escape(problem)}</th>{cells}</tr>')
        rows.append("</tbody>")
    return (
        '<div class="scroll"><table>\n' + "\n".join(rows) + "\n</table></div>\n"
        "<p><small>1.50 means that the other library takes 1.5 times as long. Below 1, "
        "in another colour, numbattn is slower. –: the library has no operator for "
        "this problem, or was not measured on it.</small></p>"
    )


def _cell(times: float | None) -> str:
    if times is None:
        return "<td>–</td>"
    slower = ' class="slower"' if times < 1 else ""
    return f"<td{slower}>{in_words(times)}</td>"


def _figure(measured: Measured, number: int) -> str:
    figure = FIGURES[number]
    text = escape(described(figure, measured.series(figure.benchmark)), quote=True)
    return (
        f"<figure><figcaption>{escape(figure.title)}</figcaption>"
        f'<img src="{figure.name}.svg" width="403" height="230" alt="{text}"></figure>'
    )


def _values(measured: Measured) -> str:
    heads = "".join(f'<th scope="col">{escape(f.title)}</th>' for f in FIGURES)
    columns = [measured.series(figure.benchmark) for figure in FIGURES]
    rows = []
    for i in reversed(range(len(measured.commits))):
        cells = "".join(
            f"<td>{'–' if (value := column[i]) is None else in_digits(value)}</td>"
            for column in columns
        )
        label = measured.commits[i].label
        rows.append(f'<tr id="{label[:8]}"><th scope="row">{label}</th>{cells}</tr>')
    return (
        f'<table class="values"><thead><tr><th scope="col">commit</th>{heads}</tr>'
        "</thead>\n<tbody>" + "\n".join(rows) + "</tbody></table>"
    )
