"""The table that a comparison ends with."""

from rich.console import Console

from fedloom.comparison.table import closing_table
from tests.report.comparisons import comparison


def test_labels_with_brackets_and_long_labels_are_told():
    found = comparison()
    label = f"targets=[{','.join(f'layer_{number}_proj' for number in range(9))}]"
    found["reference"] = found["variants"][0]["label"] = label
    console = Console(width=80)
    with console.capture() as captured:
        console.print(closing_table(found))
    # Both where it is a row and where it heads the differences.
    columns = [line.split("│") for line in captured.get().replace("┃", "│").splitlines()]
    told = ["".join(row[place].strip() for row in columns if len(row) > place) for place in (1, 3)]
    assert label in told[0]
    assert "[layer_0_" in told[1]
