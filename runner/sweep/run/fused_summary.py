"""Summarizes which runs were trained as one program. Loads no torch."""

from collections.abc import Iterable
from typing import Any

from runner.core.text import few
from runner.execution.decision import Decision
from runner.report.results.format import count

MOST = 3  # reasons listed


def fused_summary(results: Iterable[dict[str, Any]], decisions: list[Decision]) -> str:
    """Return how many runs were trained together and what trials measured; empty if no choice was made."""
    fused = sum(result.get("fused", 1) > 1 for result in results)
    parts = []
    if fused:
        reasons = _few(decision.reason for decision in decisions if decision.on)
        parts.append(f"{count(fused, 'run')} trained together" + (f": {reasons}" if reasons else ""))
    if reasons := _few(decision.reason for decision in decisions if not decision.on):
        parts.append(f"one by one: {reasons}")
    return "; ".join(parts)


def _few(reasons: Iterable[str]) -> str:
    return few(dict.fromkeys(reasons), MOST, "; ", "; ")
