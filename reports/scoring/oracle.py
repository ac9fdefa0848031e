"""The oracle's table in the terminal, beside the published rows of real images."""

from __future__ import annotations

from rich.console import Console

from dbbench.protocols.oracle import Oracle
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.scoring.remarks import number, span


def print_oracle(oracle: Oracle, console: Console) -> None:
    """Print one row per protocol and metric, the encoders, and what is not scored."""
    table, cast, banner = oracle.table, oracle.cast, oracle.banner
    console.print(f"references: {oracle.references}", soft_wrap=True, highlight=False)
    shown: list[list[str]] = []
    protocols = {protocol.name: protocol for protocol in cast.protocols}
    labels = {m.name: m.label for own in cast.metrics.values() for m in own}
    for metric, rows in table.groupby("metric", sort=False):
        shown.append([labels[str(metric)]])
        for row in rows.to_dict("records"):
            protocol, name = protocols[row["protocol"]], str(metric)
            shown.append(
                [
                    f"  {protocol.name}",
                    number(row["value"], protocol, name),
                    span(row["low"], row["high"], protocol, name),
                    number(row["with_self_pairs"], protocol, name),
                    number(row["published"], protocol, name),
                    str(row["images"]),
                ]
            )
    title = "real images, scored as if they had been generated"
    header = ("protocol", "mean", "95%", "with self-pairs", "published", "images")
    print_table(console, title, header, shown, banners=[banner] if banner else [])
    used = table.groupby("encoder", sort=False)["protocol"].unique()
    for encoder, names in used.items():
        line = f"encoder {encoder}: {', '.join(names)}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for note in oracle.notes:
        console.print(note, style="yellow", soft_wrap=True, highlight=False, markup=False)
