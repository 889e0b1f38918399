"""Tables on the terminal."""

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def print_table(console: Console, table: Table) -> None:
    """Print a table without truncating words or numbers.

    On a narrow terminal, rich would truncate them. Here no column becomes narrower than its longest word. If the table
    still does not fit, each row is printed as a block of lines: the first cell, followed by ``column: cell`` for the
    others.

    Args:
        console: The output console.
        table: The table; its column widths are modified.
    """
    unlimited = console.options.update(max_width=10_000)
    least, most = [], []
    for column in table.columns:
        measured = [Measurement.get(console, unlimited, cell) for cell in (column.header, *column.cells)]
        least.append(max(cell.minimum for cell in measured))
        most.append(max(cell.maximum for cell in measured))
    borders = Measurement.get(console, unlimited, table).maximum - sum(most)
    if (room := console.width - borders - sum(least)) >= 0:
        # rich would shrink the widest columns first, even below the length of their longest word.
        share = min(1.0, room / max(sum(most) - sum(least), 1))
        for column, low, high in zip(table.columns, least, most, strict=True):
            column.width = low + int(share * (high - low))
        console.print(table)
        return

    def text(cell: RenderableType) -> Text:
        return cell if isinstance(cell, Text) else console.render_str(str(cell))

    if table.title is not None:
        console.print(text(table.title), style="italic", soft_wrap=True)
    names = [text(column.header) if table.show_header else Text() for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        if len(others) == 1 and not names[1]:
            console.print(Text(": ").join([text(first), text(others[0])]), soft_wrap=True)
            continue
        console.print(text(first), style="bold", soft_wrap=True)
        for name, cell in zip(names[1:], map(text, others), strict=True):
            if cell:
                console.print(Text("  ") + (name + Text(": ") if name else Text()) + cell, soft_wrap=True)
