"""Tables on the terminal."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(console: Console, table: Table) -> None:
    """Print a table with all its words and numbers.

    On a narrow terminal, rich would cut them. Here no column becomes narrower than its longest word: the table is then
    wider than the terminal, which wraps its lines.

    Args:
        console: The output console.
        table: The table; the minimum width of its columns is set.
    """
    unlimited = console.options.update(max_width=10_000)
    for column in table.columns:
        cells = (column.header, *column.cells)
        column.min_width = max(Measurement.get(console, unlimited, cell).minimum for cell in cells)
    console.print(table, crop=False)
