"""The site's hook (mkdocs.yml): files of the repository that pages link to become pages of the site.

On GitHub such a link leads to the file. The site has docs/ only, so a copy of the file goes below ``repository/``:
Markdown as a page, everything else as a page that shows its text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FOLDER = "repository/"
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, and those that these link to."""
    queue = [file for file in files if file.src_uri.endswith(".md")]
    for file in queue:
        for target in _LINK.findall(file.content_string):
            uri = _site(_linked(file.src_uri, target))
            if uri.startswith(FOLDER) and files.get_file_from_path(uri) is None:
                added = File.generated(config, uri, content=_page(uri))
                files.append(added)
                queue.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to their pages."""
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        return posixpath.relpath(_site(_linked(here, match[1])), posixpath.dirname(here))

    return _LINK.sub(led, markdown)


def _repository(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    if not uri.startswith(FOLDER):
        return f"docs/{uri}"
    path = uri.removeprefix(FOLDER)
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def _linked(uri: str, target: str) -> str:
    """Return the path in the repository of what a page of the site links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(_repository(uri)), target))


def _site(path: str) -> str:
    """Return the page of the site for a path in the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return FOLDER + (path if path.endswith(".md") else f"{path}.md")


def _page(uri: str) -> str:
    path = _repository(uri)
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    return f"# {path}\n\n````{Path(path).suffix[1:]}\n{text}````\n"
