"""One case as an HTML page of its own, for whoever makes it: the record, and what it rests on.

The page may hold the case's image, which a record never does: it is written where its user
says, and nowhere else.  No script, no address, nothing that a browser would fetch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.agents.model_card import as_html
from curbside.readings import CaseRecord
from curbside.router.render import render, rests_on

__all__ = ["case_page"]

_SIDE = 512
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2329; max-width: 1100px; margin: 0 auto;
       padding: 20px; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 28px 0 6px; }
pre { white-space: pre-wrap; background: #f6f7f8; padding: 12px; font-size: .88rem; }
figure { display: inline-block; margin: 0 14px 10px 0; max-width: 512px; }
figcaption { color: #5b6672; font-size: .9rem; }
table { border-collapse: collapse; } td, th { border-bottom: 1px solid #d9dee3; padding: 3px 10px; }
img { max-width: 512px; display: block; } .soft { color: #5b6672; }
"""


def case_page(
    record: CaseRecord,
    *,
    story: Sequence[str] = (),
    image: NDArray[np.uint8] | None = None,
    card: str = "",
) -> str:
    """The page.

    Args:
        story: lines of what happened since.
        image: uint8 (h, w, 3), the one that stands for the study; None: not on this machine.
        card: model card of who read it.
    """
    parts = [f"<h1>Case {escape(record.case)}</h1>", f"<pre>{escape(render(record))}</pre>"]
    parts += ["<h2>What the reading rests on</h2>", *_explained(record, image)]
    if story:
        parts.append(f"<h2>Since then</h2><pre>{escape(chr(10).join(story))}</pre>")
    if card:
        parts.append(f"<h2>Who read it</h2><details><summary>model card</summary>{as_html(card)}"
                     "</details>")  # fmt: skip
    body = "\n".join([*parts, f'<p class="soft">{escape(record.notice)}</p>'])
    head = f'<meta charset="utf-8"><title>Case {escape(record.case)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _explained(record: CaseRecord, image: NDArray[np.uint8] | None) -> list[str]:
    reading = record.explained
    found = reading.explanation if reading else None
    said = rests_on(found) if found else "no explanation available: no model read it"
    out = [f"<p>{escape(said[:1].upper() + said[1:])}.</p>"]
    if image is None:
        return [*out, '<p class="soft">The image is not on this machine.</p>']
    out.append(_figure(image, "The image that stands for the study"))
    if found is not None and found.grid:
        from curbside.agents.activation import overlay

        caption = f"Orange speaks for {found.option!r}, blue against it; pale is little"
        out.append(_figure(overlay(image, found), caption))
    return out


def _figure(rgb: NDArray[np.uint8], caption: str) -> str:
    picture = Image.fromarray(rgb)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    said = escape(caption)
    return f'<figure><img src="{source}" alt="{said}"><figcaption>{said}</figcaption></figure>'
