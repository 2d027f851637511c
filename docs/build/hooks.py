"""Hooks of MkDocs: files outside of docs/ come into the site, links follow, and the reference is filled in.

A warning ends `make docs`: also one of a picture without a text, or of a page that loads something from another server.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs imports this file by its path
from reference import fill_in

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (  # pages
    *("experiments/README.md", "benchmarks/README.md"),
    *("CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "ROADMAP.md", "SECURITY.md"),
)
LOG = logging.getLogger("mkdocs.hooks")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def in_repository(page: str) -> str:
    """Return the path of a page of the site in the repository."""
    return page if page in OUTSIDE else f"docs/{page}"


def linked_files(page: str) -> list[str]:
    """Return the files that a page links to, as paths in the repository."""
    path = in_repository(page)
    links = LINK.findall((ROOT / path).read_text(encoding="utf-8"))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in links]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie outside of docs/, and what pages link to there: reports, scripts, the licence."""
    pages = [*OUTSIDE, *(file.src_uri for file in files.documentation_pages())]
    links = {link for page in pages for link in linked_files(page)}
    outside = {link for link in links if not link.startswith("docs/") and (ROOT / link).is_file()}
    for path in sorted({*OUTSIDE, *outside}):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fill in tables, and turn links between files of the repository into links between files of the site."""
    here = page.file.src_uri
    old, new = posixpath.dirname(in_repository(here)), posixpath.dirname(here)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(old, link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), new or ".")

    return fill_in(LINK.sub(moved, markdown))


def on_post_page(output: str, page: Page, **_: object) -> None:
    """Warn of pictures without a text, and of what a page would load from another server."""
    for tag in re.findall(r"<(?:img|script|iframe|link)\b[^>]*>", output):
        if tag.startswith("<img") and not re.search(r'alt="[^"]', tag):
            LOG.warning("%s: a picture without a text: %s", page.file.src_uri, tag)
        if re.search(r'(?:src|href)="(?:https?:)?//', tag):
            LOG.warning("%s: loads from another server: %s", page.file.src_uri, tag)
