"""A problem document for people: what is wrong, in a browser."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

MEDIA_TYPE = "text/html"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; max-width: 50rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }}
h1, p {{ overflow-wrap: anywhere; }}
pre {{ white-space: pre-wrap; opacity: 0.75; }}
</style>
</head>
<body>
<nav><a href="{root}.">Graft</a> <a href="{root}docs">API</a></nav>
<h1>{title}</h1>
<p>{detail}</p>
<pre>{document}</pre>
</body>
</html>
"""


def is_wanted(method: str, accept: str) -> bool:
    """Whether a browser's window asks, and no program: which takes what it gets, or says that it reads JSON."""
    return method in ("GET", "HEAD") and MEDIA_TYPE in accept and "json" not in accept


def page(problem: Mapping[str, Any], path: str) -> str:
    """Of a problem with what was asked for at `path`."""
    return _PAGE.format(
        title=escape(f"{problem['status']}: {problem['title']}"),
        detail=escape(problem["detail"]),
        document=escape(json.dumps(problem, indent=2, ensure_ascii=False)),
        root="../" * (path.count("/") - 1),
    )
