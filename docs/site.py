"""Hooks of mkdocs: the site also shows the pages that live beside the code, and its links lead to pages of the site.

In the repository a link leads to any file: another page, a module, a folder. On the site a link to a page leads to that
page, an image is copied, and what names another file of the repository keeps its text alone.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "repository/changelog.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "SECURITY.md": "repository/security.md",
    "bench/README.md": "repository/bench.md",
    "deploy/README.md": "repository/deploy.md",
    "bench/throughput-latency.svg": "repository/throughput-latency.svg",
}
"""Files outside docs/ that the site has, by their place in the repository."""
PLACES = {place: file for file, place in BESIDE.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and images beside the code."""
    for file, place in BESIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites a page's links for the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(PLACES.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(folder, path))
        place = BESIDE.get(file, file.removeprefix("docs/") if file.startswith("docs/") else "")
        if not place:
            return text
        relative = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{'#' + anchor if anchor else ''})"

    return LINK.sub(on_site, markdown)
