"""The pages of `asv publish`, with local copies of all that they load."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parent.parent.parent / "asv_bench" / "vendor"

SUMMARY = "../benchmarks-summary/index.html"
_PLUGIN = Path(__file__).with_name("lone_points.js")
_FLOT = "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3"
_BOOTSTRAP = "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist"
COPIES = {
    "https://code.jquery.com/jquery-3.3.1.min.js": "jquery-3.3.1/jquery.min.js",
    f"{_FLOT}/jquery.flot.min.js": "flot-0.8.3/jquery.flot.js",
    f"{_FLOT}/jquery.flot.time.min.js": "flot-0.8.3/jquery.flot.time.js",
    f"{_FLOT}/jquery.flot.selection.min.js": "flot-0.8.3/jquery.flot.selection.js",
    f"{_FLOT}/jquery.flot.categories.min.js": "flot-0.8.3/jquery.flot.categories.js",
    "https://cdn.jsdelivr.net/npm/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": (
        "flot-orderbars-1.0.0/jquery.flot.orderBars.js"
    ),
    "https://cdnjs.cloudflare.com/ajax/libs/stupidtable/1.0.1/stupidtable.min.js": (
        "stupidtable-1.0.1/stupidtable.min.js"
    ),
    "https://cdnjs.cloudflare.com/ajax/libs/blueimp-md5/2.19.0/js/md5.min.js": (
        "blueimp-md5-2.19.0/md5.min.js"
    ),
    f"{_BOOTSTRAP}/js/bootstrap.min.js": "bootstrap-3.1.1/bootstrap.min.js",
    f"{_BOOTSTRAP}/css/bootstrap.min.css": "bootstrap-3.1.1/bootstrap.min.css",
}
"""What asv's page loads from elsewhere, and the copy in asv_bench/vendor."""

# A link in the text (<a href>) is followed by its reader, not loaded with the page.
_LOADING = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*>", re.IGNORECASE)
_ADDRESS = re.compile(r'\b(?:src|href)="((?:https?:)?//[^"]*)"')
_OF_OTHER_HOSTS = re.compile(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"')


def publish(config: Path, into: Path) -> None:
    """Run `asv publish`, and make its pages need no network.

    Parameters
    ----------
    config : Path
        The asv.conf.json whose results are shown.
    into : Path
        The folder to write, replaced as a whole.

    Raises
    ------
    RuntimeError
        If asv fails, or its page loads something of which there is no copy.
    """
    command = ["publish", "--no-pull", "--html-dir", str(into.resolve())]
    ran = subprocess.run(
        [sys.executable, "-m", "asv", *command, "--config", str(config.resolve())],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"`asv publish` failed:\n{ran.stdout}{ran.stderr}")
    page = into / "index.html"
    page.write_text(with_copies(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copytree(VENDOR, into / "vendor")
    shutil.copy(_PLUGIN, into)
    _complete(into)


def with_copies(page: str) -> str:
    """Return asv's page with every script and style taken from the folder `vendor`.

    It also loads our plugin for flot, after flot and before what draws.

    Raises
    ------
    RuntimeError
        If the page loads something of which there is no copy.
    """

    def local(tag: re.Match[str]) -> str:
        addresses = _ADDRESS.findall(tag[0])
        if not addresses:
            return tag[0]
        (address,) = addresses
        if address not in COPIES:
            raise RuntimeError(
                f"asv's page loads {address}, of which asv_bench/vendor has no copy: "
                "asv_bench/vendor/README.md says how to add one"
            )
        tag_of_copy = tag[0].replace(address, f"vendor/{COPIES[address]}")
        return _OF_OTHER_HOSTS.sub("", tag_of_copy)

    return _LOADING.sub(local, page).replace(
        "</head>", f'  <script src="{_PLUGIN.name}"></script>\n  </head>', 1
    )


def _complete(into: Path) -> None:
    """Let no link and no request of the pages lead nowhere.

    Benchmarks without a result are left out; one that was not measured in some of the
    environments has an empty graph there. The project's name and the commits link to
    our summary, which has a line for each commit.
    """
    from asv.graph import Graph

    index = into / "index.json"
    content: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
    graphs = into / "graphs"
    content["benchmarks"] = {
        name: benchmark
        for name, benchmark in content["benchmarks"].items()
        if (graphs / "summary" / f"{name}.json").is_file()
    }
    content |= {"project_url": SUMMARY, "show_commit_url": f"{SUMMARY}#"}
    index.write_text(json.dumps(content), encoding="utf-8")
    for name, where in itertools.product(
        content["benchmarks"], content["graph_param_list"]
    ):
        graph = into / f"{Graph.get_file_path(where, name)}.json"
        if not graph.is_file():
            graph.write_text("[]", encoding="utf-8")
