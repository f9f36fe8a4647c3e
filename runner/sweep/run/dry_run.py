"""`dry_run=true`: a table of all combinations with status and estimated cost. Writes nothing."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.core.console import console
from runner.core.text import duration
from runner.report.results.format import count
from runner.sweep.plan.cost import Cost, Costs, estimate_costs
from runner.sweep.plan.plan import Entry, Plan
from runner.sweep.run.display import describe_duplicates
from runner.sweep.run.fused_plan import describe_fusing
from runner.sweep.run.table import COLORS, MOST_ROWS

COLUMNS = ("parameters", "steps", "FLOPs\na step", "time", "memory", "disk")
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(plan: Plan) -> None:
    """Print the table of the plan and the totals below it."""
    out, costs = console(), estimate_costs(plan, plan.probe)
    refused: dict[str, list[str]] = {}
    for reason, labels in plan.refused.items():
        for label in labels:
            refused.setdefault(label, []).append(reason)
    out.print(_table(plan, costs, refused, len(plan.entries) + len(refused)))
    if plan.lone:
        show_stages(plan.entries[0], out)
        out.print(f"folder: {plan.entries[0].job.folder}", soft_wrap=True)
    counts = f"{len(plan.todo)} to run, {len(plan.done)} done already" + describe_duplicates(plan)
    out.print(counts + (f", {len(refused)} refused" if refused else ""))
    for line in [*_totals(plan, costs), *describe_fusing(plan)]:
        out.print(line, soft_wrap=True)


def _table(plan: Plan, costs: Costs, refused: dict[str, list[str]], total: int) -> Table:
    """Return the table of combinations. Refused ones come first, because they need attention."""
    table = Table(title=f"{count(total, 'run')} in {plan.folder} (dry run: nothing is started)")
    for column in ("", "combination", "status", *COLUMNS):
        table.add_column(column, overflow="fold", justify="right" if column in COLUMNS else "left")
    for label, reasons in list(refused.items())[:MOST_ROWS]:
        table.add_row("", Text(label), Text(f"refused: {'; '.join(reasons)}", style=COLORS["failed"]))
    shown = plan.entries[: max(0, MOST_ROWS - len(refused))]
    for number, entry in enumerate(shown, 1):
        status = plan.status(entry)
        table.add_row(
            str(number),
            Text(entry.label),
            Text(status, style=COLORS.get(status, "")),
            f"{entry.facts.parameters:,}",
            f"{entry.facts.steps:,}",
            *_cost_cells(costs.runs[entry.job.fingerprint]),
        )
    if more := total - table.row_count:
        table.caption = f"and {more} more"
    return table


def _cost_cells(cost: Cost) -> list[str]:
    """Return the cells of a cost: a dash for an unknown number, `~` before one that was not measured."""
    mark = "" if cost.exact else "~"
    numbers = (
        (cost.flops, format_si),
        (cost.seconds, duration),
        (cost.memory, format_mebibytes),
        (cost.disk, format_bytes),
    )
    return ["-" if number is None else mark + format_number(number) for number, format_number in numbers]


def _totals(plan: Plan, costs: Costs) -> list[str]:
    if not plan.todo:
        return []
    lines = []
    total, disk, memory = costs.total(plan), costs.disk(plan), costs.memory(plan)
    if total is not None:
        parallel = f", {plan.workers} at once" if plan.workers > 1 else ""
        lines.append(f"about {duration(total)} in all{parallel}, {format_bytes(disk)} on disk")
        if memory is not None:
            lines[0] += f", {format_mebibytes(memory)} of memory for the largest run"
    if costs.probed:
        lines.append(
            f"measured: a few steps of {costs.probed} of {count(costs.programs, 'distinct program')} (sweep.probe)"
        )
        if costs.probed < costs.programs:
            lines[-1] += "; the others (~) by their operations"
    lines += [f"fails at once: {label}: {reason}" for label, reason in costs.failed.items()]
    return lines


def show_stages(entry: Entry, out: Console) -> None:
    """Print how each stage of the network is trained, and the source of its weights."""
    facts, base = entry.facts, entry.job.config["optimizer"]["lr"] * entry.job.config["lr_scale"]
    if not facts.stages:
        return
    table = Table(title="stages, from the input on")
    for column in ("stage", "parameters", "trainable", "learning rate", "batch norm"):
        table.add_column(column, justify="left" if column in ("stage", "batch norm") else "right")
    for row in facts.stages:
        rate = "frozen" if row.rate is None else f"{base * row.rate:.3g}"
        table.add_row(row.stage, f"{row.parameters:,}", f"{row.trainable:,}", rate, row.norm)
    out.print(table)
    if facts.weights:
        out.print(Text(f"weights: {facts.weights}"), soft_wrap=True)


def format_si(number: float) -> str:
    """Format with a metric prefix: `1.6 G`."""
    for factor, prefix in PREFIXES:
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"


def format_mebibytes(number: float) -> str:
    """Format mebibytes: `850 MB`, `1.3 GB`."""
    return format_bytes(number * 2**20)


def format_bytes(number: float) -> str:
    """Format bytes: `40 kB`, `6.9 MB`, `1.3 GB`."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"
