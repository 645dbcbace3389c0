"""Pages of the site that lie in the root of the repository, where a forge looks for them; a hook of MkDocs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES: Final = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
IN_ROOT: Final = re.compile(r"\[([^]]*)\]\(([A-Za-z][\w./-]*)(#[\w-]+)?\)")
TO_ROOT: Final = re.compile(rf"\]\(((?:\.\./)*)\.\./({'|'.join(map(re.escape, PAGES))})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, with their links as they are on the site."""
    root = Path(config.config_file_path).parent
    for name in PAGES:
        text = IN_ROOT.sub(_on_the_site, (root / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links from the folder of documents to the pages of the root lead to their copies."""
    return TO_ROOT.sub(lambda link: f"]({link[1]}{link[2].lower()}", markdown)


def _on_the_site(link: re.Match[str]) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    if target in PAGES:
        return f"[{text}]({target.lower()}{anchor})"
    if target.startswith("docs/"):
        return f"[{text}]({target.removeprefix('docs/')}{anchor})"
    # What is no page, such as the licence, is only named.
    return text
