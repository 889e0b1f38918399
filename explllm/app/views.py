"""The parts of the page as HTML: a photograph with outlined faces, and a face with bars and highlighted text.

Nothing here needs a script. Marks, bars and regions of an action unit share a number, and the style sheet highlights
all of them when one is hovered over or focused.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageOps

from explllm.core.action_units import FACS_CODES, FEAFA, NAMES, with_facs
from explllm.explanations.chain_of_thought import TITLES, ChainOfThought
from explllm.explanations.mentions import mentions
from explllm.explanations.review import MARKS, Review, review_explanation
from explllm.faces.boxes import Box
from explllm.faces.estimators import Intensities
from explllm.report.explained import Recognized
from explllm.report.regions import PLACES, Place, region_of

_SIZE = 320
"""Width and height of a face, in pixels."""
_MAX_PHOTOGRAPH = 960


@dataclass(frozen=True)
class FaceView:
    """A face and its results so far."""

    image: Image.Image
    """What the model sees."""
    square: Place
    """The square around the face box, as shares of `image`."""
    model: str
    """The model's name."""
    recognition: Recognized | None = None
    text: str = ""
    done: bool = False
    """Whether the answer is final: the text has ended or was cut off."""
    action_units: Intensities | None = None
    """Measured intensities."""
    source: str | None = None
    """The estimator's name."""
    warnings: Sequence[str] = ()
    note: str | None = None
    """What users must know about the model's training data."""


def square_in_crop(box: Box | None, margin: float) -> Place:
    """Return the square around a face box as shares of the crop with this margin; without a box, the whole crop."""
    if box is None:
        return 0.0, 0.0, 1.0, 1.0
    side = 1 / (1 + 2 * margin)
    return (1 - side) / 2, (1 - side) / 2, side, side


def photograph_html(image: Image.Image, boxes: Sequence[Box | None], chosen: int) -> str:
    """Return a photograph with numbered outlines around its faces."""
    outlines = []
    width, height = image.size
    for number, box in enumerate(boxes, 1):
        if box is None:
            continue
        x, y, w, h = box
        name = "chosen" if number - 1 == chosen else "other"
        style = f"left:{x / width:.2%};top:{y / height:.2%};width:{w / width:.2%};height:{h / height:.2%}"
        # The number is above the box, or inside it if there is no room above.
        side = "in" if y < 0.1 * height else "above"
        outlines.append(f'<span class="x-box x-{name} x-{side}" style="{style}"><b>{number}</b></span>')
    count = len(outlines)
    alt = f"The picture, with {count} outlined face{'s' * (count != 1)}" if count else "The picture"
    return (
        f'<figure class="x-photograph"><div><img src="{_url(image, _MAX_PHOTOGRAPH)}" alt="{alt}">'
        f"{''.join(outlines)}</div></figure>"
    )


def message_html(text: str) -> str:
    """Return an error or a hint as HTML."""
    return f'<p class="x-message" role="alert">{escape(text)}</p>'


def face_html(view: FaceView) -> str:
    """Return a face with the probabilities, the explanation, and its action units as HTML.

    While the text is being generated, parts that are not known yet are left out.
    """
    cot = ChainOfThought.parse(view.text) if view.text.strip() else None
    review = None
    if cot and view.recognition:
        review = review_explanation(cot, view.recognition.expression, view.action_units)
    units = list(dict.fromkeys(checked.claim.unit for checked in review.claims)) if review else []
    label = f"Explanation by {view.model}"
    parts = [
        f'<h3 class="x-model">{escape(view.model)}</h3>',
        f'<div class="x-top">{_photo(view, units)}{_probabilities(view)}</div>',
        # Reasons to doubt the picture come before the text.
        _messages(view.warnings),
        _sections(view, cot),
        _units(view, review) if review else "",
        _warnings(view, review),
    ]
    busy = "false" if view.done else "true"
    return f'<article class="x-face" aria-label="{escape(label)}" aria-busy="{busy}">{"".join(parts)}</article>'


def _photo(view: FaceView, units: Sequence[int]) -> str:
    left, top, width, height = view.square
    regions: dict[str, list[int]] = {}
    for unit in units:
        regions.setdefault(region_of(unit), []).append(unit)
    shapes = []
    for name, members in regions.items():
        x, y, w, h = PLACES[name]
        place = (
            f'x="{left + x * width:.4f}" y="{top + y * height:.4f}" width="{w * width:.4f}" height="{h * height:.4f}"'
        )
        shapes.append(f'<rect {place} rx=".02" data-u="{_numbers(members)}"><title>{name}</title></rect>')
    named = f"; outlined regions: {', '.join(regions)}" if regions else ""
    return (
        f'<div class="x-photo"><img src="{_url(ImageOps.pad(view.image, (_SIZE, _SIZE)), _SIZE)}" '
        f'alt="The face that the model sees{named}"><svg viewBox="0 0 1 1" aria-hidden="true">'
        f"{''.join(shapes)}</svg></div>"
    )


def _probabilities(view: FaceView) -> str:
    if view.recognition is None:
        return '<p class="x-wait">Recognizing …</p>'
    best = view.recognition.expression
    rows = []
    for label, share in sorted(view.recognition.probabilities.items(), key=lambda pair: -pair[1]):
        current = ' class="x-best"' if label == best else ""
        rows.append(
            f"<tr{current}><th scope=row>{label}</th><td class=x-track><span style='width:{share:.1%}'></span></td>"
            f"<td class=x-number>{share:.0%}</td></tr>"
        )
    return (
        f'<div class="x-expression"><p class="x-label" role="status">{best} <small>{view.recognition.confidence:.0%}'
        f'</small></p><table><caption class="x-hidden">Probability of each expression</caption>'
        f"{''.join(rows)}</table></div>"
    )


def _sections(view: FaceView, cot: ChainOfThought | None) -> str:
    if cot is None:
        return '<p class="x-wait">Writing the explanation …</p>' if view.recognition and not view.done else ""
    parts = []
    for title, body in zip(TITLES, cot.sections, strict=True):
        if body:
            parts.append(f"<section><h4>{title}</h4><p>{_highlighted(body)}</p></section>")
    return f'<div class="x-text">{"".join(parts)}{"" if view.done else "<i class=x-caret></i>"}</div>'


def _highlighted(text: str) -> str:
    pieces, end = [], 0
    for mention in mentions(text):
        names = ", ".join(with_facs(NAMES[unit]) for unit in mention.units[:6])
        kind = "" if mention.present else ' class="x-denied"'
        title = names if mention.present else f"no {names}"
        pieces.append(escape(text[end : mention.start]))
        pieces.append(
            f'<mark tabindex="0"{kind} data-u="{_numbers(mention.units)}" title="{title}">'
            f"{escape(text[mention.start : mention.end])}</mark>"
        )
        end = mention.end
    return "".join(pieces) + escape(text[end:])


def _units(view: FaceView, review: Review) -> str:
    if not review.claims:
        return '<p class="x-wait">The text names no action unit.</p>' if view.done else ""
    rows = []
    for checked in review.claims:
        claim, name = checked.claim, NAMES[checked.claim.unit]
        low, high = (claim.low or 0.0, claim.high or 1.0) if claim.present else (0.0, 0.0)
        words = (claim.intensity or "present") if claim.present else "absent"
        measured = "" if checked.measured is None else f"<i style='left:{checked.measured:.1%}'></i>"
        status = "" if checked.measured is None else f" {MARKS[checked.status]} measured {checked.measured:.2f}"
        rows.append(
            f'<tr tabindex="0" data-u="{claim.unit}"><th scope=row>{name} <small>{FACS_CODES[name]}</small></th>'
            f"<td class=x-track><span style='margin-left:{low:.0%};width:{high - low:.0%}'></span>{measured}</td>"
            f"<td class=x-number>{escape(words)}{status}</td></tr>"
        )
    source = (
        f"; the line shows the intensity measured by {escape(view.source)}" if view.source and view.action_units else ""
    )
    return (
        f'<details class="x-units" open><summary>Action units in the text</summary><table><caption>The bar shows '
        f"the intensity that the wording implies{source}. Left and right are the person's own.</caption>{''.join(rows)}"
        "</table></details>"
    )


def _warnings(view: FaceView, review: Review | None) -> str:
    texts = [*review.warnings] if view.done and review is not None else []
    if view.note:
        texts.append(_training_data(view.note))
    return _messages(texts)


def _messages(texts: Sequence[str]) -> str:
    return "".join(f'<p class="x-message">{escape(text)}</p>' for text in texts)


def _training_data(note: str) -> str:
    return f"Training data of this model: {note}"


def _numbers(units: Sequence[int]) -> str:
    return " ".join(map(str, units))


def _url(image: Image.Image, size: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def style() -> str:
    """Return the style sheet."""
    rules = []
    for unit in range(len(FEAFA)):
        one = f'[data-u~="{unit}"]'
        on = f".x-face:has({one}:is(:hover,:focus))"
        rules.append(f"{on} mark{one}{{background:var(--lit);color:var(--lit-ink)}}")
        rules.append(
            f"{on} rect{one}{{stroke:var(--lit);stroke-width:.016;stroke-opacity:1;fill:var(--lit);fill-opacity:.22}}"
        )
        rules.append(f"{on} tr{one} :is(.x-track span){{background:var(--lit)}}")
        rules.append(f"{on} tr{one} th{{font-weight:700}}")
    return _STYLE + "\n".join(rules)


def document(title: str, views: Sequence[str], note: str | None = None) -> str:
    """Return a complete page of faces, such as the report of a batch; `note` is about the training data."""
    message = message_html(_training_data(note)) if note else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{style()}{_DOCUMENT}</style><body><h1>{escape(title)}</h1>"
        f"{message}{''.join(views)}</body></html>"
    )


_COLORS = """--ink:#191c22;--soft:#535b69;--line:#d6dae2;--track:#e6e9ef;--bar:#2f5fd0;--best:#1d4ab0;--paper:#fff;
--mark:#ffe7a3;--mark-ink:#2a2100;--denied:#e3e6ec;--lit:#b3261e;--lit-ink:#fff;--warn:#fff4e0;--warn-ink:#5c3a00"""
_DARK = """--ink:#eceef3;--soft:#b3bac8;--line:#3a404d;--track:#2a303c;--bar:#86a9ff;--best:#a9c2ff;--paper:#171b23;
--mark:#594708;--mark-ink:#fff2c4;--denied:#343a46;--lit:#ff9a8f;--lit-ink:#2b0400;--warn:#3b2c10;--warn-ink:#ffe2ae"""

_DOCUMENT = f"""
:root{{color-scheme:light dark}}
body{{font:16px/1.55 system-ui,sans-serif;max-width:860px;margin:2rem auto;padding:0 1rem;
background:#f4f5f8;color:#191c22}}
body>.x-message{{margin:0 0 1rem!important}}
@media(prefers-color-scheme:dark){{body{{background:#0f1218;color:#eceef3}}.x-face,.x-message{{{_DARK}}}}}
"""

_STYLE = f"""
.x-face,.x-photograph,.x-message,.x-lead{{{_COLORS};color:var(--ink)}}
.dark :is(.x-face,.x-photograph,.x-message,.x-lead){{{_DARK}}}
.x-lead{{color:var(--soft)!important;max-width:60ch;margin:0 0 .5rem}}
.x-photograph{{margin:0;text-align:center}}
.x-photograph>div{{position:relative;display:inline-block;max-width:100%}}
.x-photograph img{{display:block;max-width:100%;max-height:420px;border-radius:10px}}
.x-box{{position:absolute;border:2px solid #fff;outline:1px solid #000;border-radius:4px;opacity:.85}}
.x-box b{{position:absolute;left:-2px;bottom:100%;min-width:1.5em;padding:0 .35em;background:#fff;color:#191c22;
font:600 .8rem/1.6 system-ui;text-align:center;border-radius:3px}}
.x-box.x-in b{{top:-2px;bottom:auto}}
.x-box.x-chosen{{border-color:#2f5fd0;outline:2px solid #fff;opacity:1}}
.x-box.x-chosen b{{background:#2f5fd0;color:#fff}}
.x-face{{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:1.25rem;margin:0 0 1rem;
line-height:1.55}}
.x-face :is(h3,h4,p,th,td,caption,summary,small){{color:inherit;margin:0}}
.x-model{{font-size:.85rem!important;font-weight:600;color:var(--soft)!important;margin:0 0 .75rem!important}}
.x-top{{display:flex;flex-wrap:wrap;gap:1.25rem;align-items:start}}
.x-photo{{position:relative;flex:0 1 210px}}
.x-expression{{flex:1 1 230px}}
.x-photo img{{display:block;width:100%;margin:0;border-radius:10px}}
.x-photo svg{{position:absolute;inset:0;width:100%;height:100%}}
.x-photo rect{{fill:none;stroke:#fff;stroke-width:.008;stroke-opacity:.75;pointer-events:all;transition:all .12s}}
.x-label{{font-size:1.6rem;font-weight:700;line-height:1.2;margin:0 0 .5rem!important}}
.x-label small{{font-size:1rem;font-weight:500;color:var(--soft)}}
.x-face table{{width:100%;border-collapse:collapse;border:0!important;font-size:.9rem;margin:0}}
.x-face :is(tr,th,td){{border:0!important;background:none}}
.x-face th{{text-align:left;font-weight:500;padding:.12rem .6rem .12rem 0;width:1%;white-space:nowrap}}
.x-face td{{padding:.12rem 0}}
.x-best th,.x-best .x-number{{font-weight:700}}
.x-track{{position:relative;width:auto}}
.x-track::before{{content:"";position:absolute;left:0;right:0;top:50%;height:.55rem;margin-top:-.275rem;
border-radius:.3rem;background:var(--track)}}
.x-track span{{position:relative;display:block;height:.55rem;border-radius:.3rem;background:var(--bar);min-width:2px}}
.x-best .x-track span{{background:var(--best)}}
.x-track i{{position:absolute;top:15%;bottom:15%;width:3px;margin-left:-1px;border-radius:2px;background:var(--ink)}}
.x-face .x-number{{width:1%;white-space:nowrap;text-align:right;padding-left:.7rem;color:var(--soft);
font-variant-numeric:tabular-nums}}
.x-text{{margin-top:1.1rem;max-width:68ch}}
.x-text section{{margin:0 0 .8rem}}
.x-text h4{{font-size:.95rem;font-weight:650;margin:0 0 .15rem!important}}
.x-face mark{{background:var(--mark);color:var(--mark-ink);border-radius:4px;padding:.05em .2em;cursor:help;
-webkit-box-decoration-break:clone;box-decoration-break:clone}}
.x-face mark.x-denied{{background:var(--denied);color:var(--ink);text-decoration:underline dotted}}
.x-caret{{display:inline-block;width:.5em;height:1em;background:var(--bar);animation:x-blink 1s steps(2) infinite}}
@keyframes x-blink{{50%{{opacity:0}}}}
@media(prefers-reduced-motion:reduce){{.x-caret{{animation:none}}.x-photo rect{{transition:none}}}}
.x-units{{margin-top:.9rem;border-top:1px solid var(--line);padding-top:.8rem}}
.x-units summary{{cursor:pointer;font-weight:650;font-size:.95rem}}
.x-units caption{{caption-side:bottom;text-align:left;font-size:.82rem;color:var(--soft)!important;padding-top:.4rem}}
.x-units small{{color:var(--soft)!important}}
.x-wait{{color:var(--soft)!important;margin-top:.8rem!important}}
.x-message{{background:var(--warn);color:var(--warn-ink)!important;border-radius:8px;padding:.5rem .75rem;
margin:.7rem 0 0!important;font-size:.9rem}}
.x-hidden{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
button[role=tab][aria-selected=true]{{color:#1d4ed8!important}}
.dark button[role=tab][aria-selected=true]{{color:#93b8ff!important}}
.x-face :focus-visible{{outline:2px solid var(--bar);outline-offset:2px}}
.x-units th{{white-space:normal;width:44%}}
.html-container{{padding:0!important}}
#summary{{min-height:5rem}}
.x-pair{{flex-wrap:wrap!important}}
.x-pair>*{{flex:1 1 300px!important;min-width:min(300px,100%)!important}}
@media(max-width:640px){{
.x-input{{display:contents!important}}
.x-input>*{{flex:1 1 100%!important}}
.x-input>#examples{{order:1}}
}}
"""
