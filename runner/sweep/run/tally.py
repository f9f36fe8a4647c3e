"""Counts of runs by status, and what is left to do, in words. Loads no torch."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST_NAMED = 3  # steps at which interrupted runs resume


def describe_remaining(results: Iterable[dict[str, Any] | None], lone: bool) -> str:
    """Describe what an interrupted command leaves to do. `results`: from `Plan.displayed_result`."""
    results = list(results)
    resumes = [result["resumes"] for result in results if result is not None and result["resumes"]]
    if lone:
        begun = "no step was made" if results[0] is None else "it resumes from its checkpoint"
        return f"{resumes[0] if resumes else begun}; type the same command again"
    counts = Counter("not started" if result is None else result["status"] for result in results)
    return f"{tally(counts, resumes)}; the same command goes on where it stopped"


def tally(counts: Mapping[str, int], resumes: Iterable[str] = ()) -> str:
    """Describe how many runs have each status. `resumes`: where interrupted runs resume; a few are listed."""
    places = list(dict.fromkeys(place.removeprefix("resumes ") for place in resumes if place))
    named = "resumes " + ", ".join(places[:MOST_NAMED]) + (", ..." if len(places) > MOST_NAMED else "")
    ordered = sorted(counts, key=lambda status: status == "not started")  # comes last
    words = {status: f"{counts[status]} {status}" for status in ordered if counts[status]}
    if places and "interrupted" in words:
        words["interrupted"] += f" ({named})"
    return ", ".join(words.values())
