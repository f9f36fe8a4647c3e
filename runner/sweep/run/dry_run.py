"""`dry_run=true`: every combination with its status and what it will cost; nothing is made."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.core.console import console
from runner.core.text import duration
from runner.report.results.format import count
from runner.sweep.plan.cost import Cost, Costs, estimate_costs
from runner.sweep.plan.plan import Entry, Plan
from runner.sweep.run.display import twice
from runner.sweep.run.fused_plan import foretold
from runner.sweep.run.table import COLOURS, MOST_ROWS

COLUMNS = ("parameters", "steps", "FLOPs\na step", "time", "memory", "disk")
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(plan: Plan) -> None:
    """The table, and the sums below it."""
    out, found = console(), estimate_costs(plan, plan.probe)
    refused: dict[str, list[str]] = {}
    for reason, labels in plan.refused.items():
        for label in labels:
            refused.setdefault(label, []).append(reason)
    out.print(_table(plan, found, refused, len(plan.entries) + len(refused)))
    if plan.lone:
        show_stages(plan.entries[0], out)
        out.print(f"folder: {plan.entries[0].job.folder}", soft_wrap=True)
    told = f"{len(plan.todo)} to run, {len(plan.done)} done already" + twice(plan)
    out.print(told + (f", {len(refused)} refused" if refused else ""))
    for line in [*_sums(plan, found), *foretold(plan)]:
        out.print(line, soft_wrap=True)


def _table(plan: Plan, found: Costs, refused: dict[str, list[str]], total: int) -> Table:
    """What cannot run comes first: it is what somebody has to look at."""
    table = Table(title=f"{count(total, 'run')} in {plan.folder} (dry run: nothing is started)")
    for column in ("", "combination", "status", *COLUMNS):
        table.add_column(column, overflow="fold", justify="right" if column in COLUMNS else "left")
    for label, reasons in list(refused.items())[:MOST_ROWS]:
        table.add_row("", Text(label), Text(f"refused: {'; '.join(reasons)}", style=COLOURS["failed"]))
    shown = plan.entries[: max(0, MOST_ROWS - len(refused))]
    for number, entry in enumerate(shown, 1):
        status = plan.status(entry)
        table.add_row(
            str(number),
            Text(entry.label),
            Text(status, style=COLOURS.get(status, "")),
            f"{entry.facts.parameters:,}",
            f"{entry.facts.steps:,}",
            *_words(found.runs[entry.job.fingerprint]),
        )
    if more := total - table.row_count:
        table.caption = f"and {more} more"
    return table


def _words(cost: Cost) -> list[str]:
    """Dashes for what is not known, `~` before what was not measured."""
    sure = "" if cost.exact else "~"
    numbers = (cost.flops, magnitude), (cost.seconds, duration), (cost.memory, mebibytes), (cost.disk, size)
    return ["-" if number is None else sure + words(number) for number, words in numbers]


def _sums(plan: Plan, found: Costs) -> list[str]:
    if not plan.todo:
        return []
    lines = []
    total, disk, memory = found.total(plan), found.disk(plan), found.memory(plan)
    if total is not None:
        side = f", {plan.workers} at once" if plan.workers > 1 else ""
        lines.append(f"about {duration(total)} in all{side}, {size(disk)} on disk")
        if memory is not None:
            lines[0] += f", {mebibytes(memory)} of memory for the largest run"
    if found.probed:
        lines.append(
            f"measured: a few steps of {found.probed} of {count(found.programs, 'distinct program')} (sweep.probe)"
        )
        if found.probed < found.programs:
            lines[-1] += "; the others (~) by their operations"
    lines += [f"fails at once: {label}: {reason}" for label, reason in found.failed.items()]
    return lines


def show_stages(entry: Entry, out: Console) -> None:
    """What training will do to each stage of the network, and where its weights come from."""
    facts, base = entry.facts, entry.job.config["optimizer"]["lr"] * entry.job.config["lr_scale"]
    if not facts.stages:
        return
    table = Table(title="stages, the input first")
    for column in ("stage", "parameters", "trainable", "learning rate", "batch norm"):
        table.add_column(column, justify="left" if column in ("stage", "batch norm") else "right")
    for row in facts.stages:
        rate = "frozen" if row.rate is None else f"{base * row.rate:.3g}"
        table.add_row(row.stage, f"{row.parameters:,}", f"{row.trainable:,}", rate, row.norm)
    out.print(table)
    if facts.weights:
        out.print(Text(f"weights: {facts.weights}"), soft_wrap=True)


def magnitude(number: float) -> str:
    """`1.6 G`."""
    for factor, prefix in PREFIXES:
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"


def mebibytes(number: float) -> str:
    """`850 MB`, `1.3 GB`."""
    return size(number * 2**20)


def size(number: float) -> str:
    """`40 kB`, `6.9 MB`, `1.3 GB`."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"
