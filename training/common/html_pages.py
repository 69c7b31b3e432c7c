# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Markdown as one HTML file that opens offline: its pictures are inside, and HTML in the text stays text."""

import base64
import html
from collections.abc import Mapping

from markdown_it import MarkdownIt


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d232b; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #d9dfe8; padding: .3rem .8rem .3rem 0; text-align: left; }}
img {{ max-width: 100%; height: auto; }}
td img {{ max-width: none; }}
pre {{ background: #f3f5f8; padding: .8rem; overflow-x: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}  # by a file's first bytes


def html_page(title: str, markdown: str, pictures: Mapping[str, bytes]) -> str:
    """
    The text of an HTML file.

    Args:
        markdown: CommonMark with tables. HTML in it is shown, not obeyed.
        pictures: PNG or JPEG files by the address that `![words](address)` has; of any other picture the words are shown.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def picture(renderer, tokens, index, options, env) -> str:
        token = tokens[index]
        words = html.escape(renderer.renderInlineAsText(token.children, options, env))
        data = pictures.get(str(token.attrs["src"]))
        if data is None:
            return words
        kind = next(kind for start, kind in KINDS.items() if data.startswith(start))
        return f'<img alt="{words}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'

    parser.add_render_rule("image", picture)
    return PAGE.format(title=html.escape(title), body=parser.render(markdown))
