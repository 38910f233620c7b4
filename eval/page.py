"""A report as one HTML file that needs nothing else: no script, no font, no image from anywhere."""

from html import escape
from pathlib import Path

from eval.metrics import ArmMetrics
from eval.report import COLUMNS, Comparison, EvalReport, Failure, cell
from tandem.errors import InputError

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th:first-child,td:first-child,table.text td,table.text th{text-align:left}
.scroll{overflow-x:auto}figure{margin:1rem 0;display:inline-block}
figcaption{font-weight:600}svg text{fill:currentColor;font:12px system-ui,sans-serif}
details{border:1px solid var(--line);border-radius:6px;margin:.5rem 0;padding:.5rem .8rem}
summary{cursor:pointer}blockquote{margin:.4rem 0;padding:.3rem .8rem;background:var(--soft);white-space:pre-wrap}
dl{display:grid;grid-template-columns:8rem 1fr;gap:.2rem .8rem}dt{opacity:.7}dd{margin:0}
.label{border:1px solid var(--line);border-radius:4px;padding:0 .4rem;font-size:.85em}
"""
# Colours that colour-blind readers tell apart too.
_COLOURS = {"tandem": "#0072b2", "rag": "#009e73", "style": "#e69f00", "base": "#999999"}
_BARS = (
    ("Right answers", "correct"),
    ("Right citations", "citation_precision"),
    ("Declined the unanswerable", "declined_unanswerable"),
    ("Declined the answerable (less is better)", "declined_answerable"),
    ("House style", "style"),
)


def render_html(report: EvalReport) -> str:
    """The whole report as one HTML document; everything that came from documents or models is escaped."""
    title = f"Tandem evaluation: {', '.join(report.suites) or 'a suite'}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        # The page holds texts of others: even if one got through, nothing may run or load.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{report.cases} cases, {report.created_at:%Y-%m-%d %H:%M} UTC, prompt {escape(report.prompt_version)}, "
        f"adapter {escape(', '.join(report.adapters) or 'none')}.</p>",
        _table(report),
        "<h2>The arms side by side</h2>",
        *(_bars(heading, field, report.arms) for heading, field in _BARS),
        _comparisons(report.comparisons),
        _labels(report),
        f"<h2>Failures ({len(report.failures)})</h2>",
        *(_failure(failure) for failure in report.failures),
        _errors(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def write_html(report: EvalReport, path: Path) -> None:
    """Writes the page to `path`.

    Raises:
        InputError: The file cannot be written.
    """
    try:
        path.write_text(render_html(report), encoding="utf-8")
    except OSError as exc:
        raise InputError(
            f"The report cannot be written to {str(path)!r}: {exc.strerror}. Name another file with --html."
        ) from exc


def _table(report: EvalReport) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading, _, _ in COLUMNS)
    rows = "".join(
        f"<tr><td>{escape(metrics.arm)}</td>"
        + "".join(f"<td>{cell(metrics, field, kind)}</td>" for _, field, kind in COLUMNS)
        + f"<td>{metrics.failed or '-'}</td></tr>"
        for metrics in report.arms
    )
    return f'<div class="scroll"><table><tr><th>arm</th>{head}<th>failed</th></tr>{rows}</table></div>'


def _bars(heading: str, field: str, arms: tuple[ArmMetrics, ...]) -> str:
    """A small bar chart of one share; nothing when no arm has it."""
    values: list[tuple[str, float | None]] = [(metrics.arm, getattr(metrics, field)) for metrics in arms]
    if all(value is None for _, value in values):
        return ""
    rows = []
    for place, (arm, value) in enumerate(values):
        y = place * 26
        label = "-" if value is None else f"{value:.0%}"
        width = round(200 * (value or 0), 1)
        rows.append(
            f'<text x="0" y="{y + 15}">{escape(arm)}</text>'
            f'<rect x="60" y="{y + 2}" width="{width}" height="18" rx="2" fill="{_COLOURS[arm]}"/>'
            f'<text x="{66 + width}" y="{y + 15}">{label}</text>'
        )
    told = ", ".join(f"{arm} {'-' if value is None else f'{value:.0%}'}" for arm, value in values)
    return (
        f"<figure><figcaption>{escape(heading)}</figcaption>"
        f'<svg role="img" width="320" height="{len(values) * 26}" aria-label="{escape(f"{heading}: {told}")}">'
        f"{''.join(rows)}</svg></figure>"
    )


def _comparisons(comparisons: tuple[Comparison, ...]) -> str:
    if not comparisons:
        return ""
    rows = "".join(
        f"<tr><td>{escape(each.first)} - {escape(each.second)}</td><td>{escape(each.measure)}</td>"
        f"<td>{each.difference.mean:+.1%}</td><td>{each.difference.low:+.1%} to {each.difference.high:+.1%}</td>"
        f"<td>{each.difference.n}</td></tr>"
        for each in comparisons
    )
    return (
        "<h2>Differences, paired by case</h2><p>With their 95% bootstrap intervals.</p>"
        '<div class="scroll"><table><tr><th>arms</th><th>measure</th><th>difference</th><th>interval</th>'
        f"<th>cases</th></tr>{rows}</table></div>"
    )


def _labels(report: EvalReport) -> str:
    if not report.labels:
        return ""
    rows = "".join(f"<tr><td>{escape(label)}</td><td>{count}</td></tr>" for label, count in report.labels.items())
    return f"<h2>Knowledge or behaviour: {escape(report.diagnosed or '')}</h2><table>{rows}</table>"


def _failure(failure: Failure) -> str:
    label = f' <span class="label">{escape(failure.label)}</span>' if failure.label else ""
    rows = [("expected", failure.expected)]
    if failure.label:
        rows += [("why", failure.evidence), ("owner", failure.owner or "-"), ("action", failure.action)]
    quotes = "".join(
        f"<p>[{quote.n}] {escape(quote.title)} ({escape(quote.document_id)}){' - cited' if quote.cited else ''}</p>"
        f"<blockquote>{escape(quote.quote)}</blockquote>"
        for quote in failure.passages
    )
    return (
        f"<details><summary>{escape(failure.arm)} - {escape(failure.case)}: {escape(failure.question)}{label}</summary>"
        f"<blockquote>{escape(failure.answer)}</blockquote><dl>"
        + "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows)
        + f"</dl>{quotes or '<p>No passages were given.</p>'}</details>"
    )


def _errors(report: EvalReport) -> str:
    if not report.errors:
        return ""
    rows = "".join(
        f"<tr><td>{escape(error.arm)}</td><td>{escape(error.case)}</td><td>{escape(error.error)}</td></tr>"
        for error in report.errors
    )
    return (
        f"<h2>Not answered ({len(report.errors)})</h2><p>These count in no score.</p>"
        f'<table class="text"><tr><th>arm</th><th>case</th><th>error</th></tr>{rows}</table>'
    )
