"""Tables as text for a terminal, and as HTML for a notebook."""

from collections.abc import Iterable, Sequence
from html import escape

# A notebook keeps what it shows: a page of rows is read, thousands only make the file large.
_MOST_ROWS = 200
_CELL = "text-align:left; white-space:pre; padding:0 1em 0 0"


def lay_out(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under headings, in columns as wide as their longest cell.

    >>> print(lay_out(["site", "ms"], [["enc.3", "1.2"]]))
    site   ms
    enc.3  1.2
    """
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def lay_out_html(
    facts: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Lay out a few lines and a table as HTML; of many rows the first, and it says so.

    >>> lay_out_html(["2 < 3"], ["site"], [["enc.3"]]).count("<td")
    1
    """
    lines = [f"<div>{escape(fact).replace(chr(10), '<br>')}</div>" for fact in facts]
    left_out = len(rows) - _MOST_ROWS
    if left_out > 0:
        lines.append(f"<div>… the first {_MOST_ROWS} of {len(rows)} rows</div>")
    cells = [_lay_out_row("th", headings)]
    cells += [_lay_out_row("td", row) for row in rows[:_MOST_ROWS]]
    return f"<div>{''.join(lines)}<table>{''.join(cells)}</table></div>"


def _lay_out_row(tag: str, row: Sequence[str]) -> str:
    # Leading spaces are the depth of a module.
    cells = "".join(f'<{tag} style="{_CELL}">{escape(cell)}</{tag}>' for cell in row)
    return f"<tr>{cells}</tr>"
