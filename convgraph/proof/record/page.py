"""A record as one HTML page: no script, no network, light and dark, every text escaped.

Takes the record as a plain dictionary; draws rho as bars against the bound on a logarithmic scale.
"""

import html as markup
import math
from collections.abc import Iterable, Mapping
from typing import Any

from convgraph.proof.record.counterexample import Counterexample
from convgraph.proof.record.printable import printable, printable_lines

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What the page may load: its own style."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--page:#fff;
--card:#f6f8fa; --proven:#13703f;--refuted:#b3261e;--undecided:#8a5a00;--bar:#3b6fb6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#9aa6b5;--line:#333d4a;
--page:#12171e; --card:#1a212b;--proven:#5fce93;--refuted:#ff8a80;--undecided:#f0b95a;
--bar:#7fb0f0}}*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink); font:16px/1.55 system-ui,sans-serif}
main{max-width:52rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.35rem;line-height:1.3;margin:.2rem 0 0;overflow-wrap:anywhere;font-weight:600}
h2{font-size:1rem;margin:2.2rem 0 .6rem;padding-bottom:.3rem;
border-bottom:1px solid var(--line)}p{margin:.5rem 0}.soft{color:var(--soft)}
code{font:.88em/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
table{width:100%;border-collapse:collapse}
th,td{text-align:left;vertical-align:top;padding:.45rem .8rem .45rem 0;
border-bottom:1px solid var(--line);overflow-wrap:anywhere}
th{font-weight:500;white-space:nowrap;width:1%;padding-right:1.5rem}
tr:last-child>*{border-bottom:0}.verdict{font-weight:700;font-size:2.2rem;line-height:1.2}
.proven{color:var(--proven)}.refuted{color:var(--refuted)}.undecided{color:var(--undecided)}
td.proven,td.refuted,td.undecided,td.not{white-space:nowrap;width:1%;padding-right:1.5rem;
font-weight:600}td.not{color:var(--soft);font-weight:400}
.fault{background:var(--card);border-left:4px solid var(--refuted);padding:.8rem 1rem;
margin:1rem 0}ul{margin:.4rem 0;padding-left:1.2rem}li{margin:.25rem 0}
details{border:1px solid var(--line);border-radius:6px;padding:.6rem 1rem;margin:.5rem 0}
.whole{white-space:nowrap}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85em}
summary{cursor:pointer;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;margin:.6rem 0}
svg text{fill:var(--ink);font:13px system-ui,sans-serif}svg .soft{fill:var(--soft)}
svg .axis{stroke:var(--line)}
svg .bound{stroke:var(--refuted);stroke-width:1.5;stroke-dasharray:4 3}svg .bar{fill:var(--bar)}
svg .exact{fill:none;stroke:var(--bar);stroke-width:1.5}svg .over{fill:var(--refuted)}
"""

CLAIMS = {
    "proven": "Both sides are the same function of every image, every weight and every incoming "
    "gradient, values and gradients alike, under what is assumed below.",
    "refuted": "The two sides are not the same function. What differs is given below.",
    "undecided": "Nothing was shown either way. The reason is given below.",
}

PROVEN = {
    "linear": "Both sides are the same linear function of every image, values and gradients alike, "
    "under what is assumed below.",
    "maximum": "Both sides take the largest entry of the same windows of every image, and send "
    "gradients back to it, under what is assumed below.",
    "network": "Both networks hold the same parameters, or the folds named below, "
    "and apply the same operators to the same elements, as recorded on images of this shape. Each "
    "convolution and linear map is certified below for every image, weight and incoming gradient. "
    "Gradients of the whole network are "
    "claimed where their part is proven: backward operators are the same, on the same elements.",
}
"""What "proven" claims of another kind than a convolution."""

RHO_NETWORK = (
    "The largest difference of the two runs divided by a bound that was propagated operator by "
    "operator, from the images to the output. No tolerance was chosen."
)

RHO = (
    "Each bar is the largest error divided by the bound derived for that very entry, from the "
    " number of terms in its sum and the unit roundoff. Left of the dashed line the error is one "
    "that a correct computation may make; right of it, it is not. No tolerance was chosen."
)


def page(record: Mapping[str, Any]) -> str:
    """Return the page of one certificate, its layers' certificates included.

    Args:
        record: a certificate as a dictionary.
    """
    name, verdict = record["name"], record["verdict"]
    body = _head(record) + _sections(record)
    if record["layers"]:
        layers = "".join(_layer(layer) for layer in record["layers"])
        body += f"<h2>Layers</h2>{layers}"
    return html(f"{verdict}: {name}", body)


def index(
    rows: Iterable[tuple[str, str, str]],
) -> str:
    """Return a page of links to certificates.

    Args:
        rows: file, name and verdict of each.
    """
    listed = "".join(
        f'<tr><td class="{_tone(verdict)}">{escape(verdict)}</td>'
        f'<td><a href="{escape(file)}">{escape(name)}</a></td></tr>'
        for file, name, verdict in rows
    )
    return html("Certificates", f"<h1>Certificates</h1><table>{listed}</table>")


def html(title: str, body: str) -> str:
    """Return a whole page; the title is escaped, the body is taken as it is."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def escape(text: str) -> str:
    """Return text as it stands on a page, whatever it holds."""
    return markup.escape(printable(text))


def _head(record: Mapping[str, Any]) -> str:
    verdict = record["verdict"]
    text = (
        f'<div class="verdict {_tone(verdict)}">{escape(verdict.capitalize())}</div>'
        f"<h1>{escape(record['name'])}</h1><p>{_claim(record)}</p>"
    )
    if verdict == "proven" and record["trials"]:
        text += (
            f"<p>Were they different, {record['trials']} independent trials would have missed it "
            f'with a probability of at most <span class="whole">2<sup>'
            f"{record['log2_epsilon']:.0f}</sup></span>.</p>"
        )
    faults = [("Reason", record["reason"]), ("Likely cause", record["cause"])]
    if record["counterexample"]:
        case = dict(record["counterexample"])
        smallest = case.pop("smallest", None)
        faults.append(("Counterexample", ", ".join(f"{key} = {case[key]}" for key in case)))
    fault = "".join(f"<p><b>{key}:</b> {escape(value)}</p>" for key, value in faults if value)
    if record["counterexample"] and smallest:
        fault += (
            f"<pre>{markup.escape(printable_lines(str(Counterexample.from_dict(smallest))))}</pre>"
        )
    return text + (f'<div class="fault">{fault}</div>' if fault else "")


def _claim(record: Mapping[str, Any]) -> str:
    claim = CLAIMS[record["verdict"]]
    return PROVEN.get(record["kind"], claim) if record["verdict"] == "proven" else claim


def _sections(record: Mapping[str, Any]) -> str:
    parts = "".join(
        f"<tr><th>{escape(part['name'])}</th><td class='{_tone(part['status'])}'>"
        f"{escape(part['status'])}</td><td>{escape(part['facts'])}</td></tr>"
        for part in record["parts"]
    )
    text = f"<h2>What was checked</h2><table>{parts}</table>"
    if record["rho"] or record["rho_exact"]:
        text += f"<h2>Rounding: error / bound</h2>{_bars(record['rho'], record['rho_exact'])}"
        note = RHO_NETWORK if record["kind"] == "network" else RHO
        text += f'<p class="soft">{note}</p>'
    text += f"<h2>Assumed</h2>{_list(record['assumed'])}"
    text += f"<h2>Not covered</h2>{_list(record['not_covered'])}"
    if record["excluded"]:
        text += f"<h2>Left out</h2>{_list(record['excluded'])}"
    spec = {key: _short(value) for key, value in record["spec"].items() if value is not None}
    text += f"<h2>The operator</h2>{_table(spec)}"
    run = {
        "candidate": record["candidate"] or "not importable by a name",
        "reference": record["reference"] or "not importable by a name",
        **{f"{side}, called by": how for side, how in record["adapter"].items()},
        "dtype": record["dtype"],
        "device": record["device"],
        **record["flags"],
        **record["versions"],
        "probes": f"integers of [-{record['a']}, {record['a']}], {record['trials']} trials"
        if record["trials"]
        else "",
        "seed": record["seed"],
        "trace": record["trace"],
        "digest": record["digest"],
    }
    text += f"<h2>To run it again</h2>{_table({k: v for k, v in run.items() if v != ''})}"
    note = "The same record as JSON is what <code>convgraph verify</code> reads."
    return f'{text}<p class="soft">{note}</p>'


def _layer(record: Mapping[str, Any]) -> str:
    opened = "" if record["verdict"] == "proven" else " open"
    inner = "".join(_layer(layer) for layer in record["layers"])
    return (
        f'<details{opened}><summary><b class="{_tone(record["verdict"])}">'
        f"{escape(record['verdict'])}</b> {escape(record['name'])}</summary>"
        f"{_sections(record)}{inner}</details>"
    )


def _bars(rho: Mapping[str, float], exact: Mapping[str, float]) -> str:
    """Bars from 10^-4 to 10 times the bound; hollow ones against the finer computation."""
    names = list(dict.fromkeys([*rho, *exact]))
    left, width, row, low, high = 80, 540, 48, -4, 1
    tall = row * len(names) + 44

    def place(value: float) -> float:
        if math.isnan(value) or value >= 10**high:
            return float(left + width)
        inside = max(math.log10(value), low) if value > 0 else low
        return left + width * (inside - low) / (high - low)

    marks = ""
    for power in range(low, high + 1):
        x = place(10.0**power)
        kind = "bound" if power == 0 else "axis"
        label = "bound" if power == 0 else "10" if power == 1 else f"{10.0**power:g}"
        marks += f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{tall - 28}"/>'
        marks += (
            f'<text class="soft" x="{x:.1f}" y="{tall - 10}" text-anchor="middle">{label}</text>'
        )
    for number, name in enumerate(names):
        top = 10 + row * number
        marks += f'<text x="0" y="{top + 19}">{escape(name)}</text>'
        for found, at, tone in ((rho, top, "bar"), (exact, top + 16, "exact")):
            if name in found:
                value = found[name]
                end, over = place(value), "" if value <= 1 else " over"
                marks += (
                    f'<rect class="{tone}{over}" x="{left}" y="{at}" height="10" rx="2" '
                    f'width="{max(end - left, 2):.1f}"/>'
                    f'<text class="soft" x="{min(end, left + width) + 6:.1f}" y="{at + 10}">'
                    f"{value:.2g}</text>"
                )
    key = (
        '<p class="soft">Filled: against the reference. Outlined: against a finer computation.</p>'
    )
    return (
        f'<svg viewBox="0 0 {left + width + 60} {tall}" role="img" '
        f'aria-label="error divided by bound, per quantity">{marks}</svg><p class="soft">{key}</p>'
    )


def _table(rows: Mapping[str, Any]) -> str:
    cells = (
        f"<tr><th>{escape(str(key))}</th><td><code>{escape(str(value))}</code></td></tr>"
        for key, value in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:150]} ... ({len(text)} characters, in the JSON)"


def _tone(status: str) -> str:
    return status if status in ("proven", "refuted", "undecided") else "not"
