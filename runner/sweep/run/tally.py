"""How many runs ended in which way, and what is left to do, in words. Light: it needs no torch."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST_NAMED = 3  # steps at which interrupted runs resume


def left(results: Iterable[dict[str, Any] | None], lone: bool) -> str:
    """Return in words what an interrupted command leaves to do. `results`: as `Plan.displayed_result` has them."""
    shown = list(results)
    resumes = [result["resumes"] for result in shown if result is not None and result["resumes"]]
    if lone:
        where = resumes[0] if resumes else "no step was made" if shown[0] is None else "it resumes from its checkpoint"
        return f"{where}; type the same command again"
    counts = Counter("not started" if result is None else result["status"] for result in shown)
    return f"{tally(counts, resumes)}; the same command goes on where it stopped"


def tally(counts: Mapping[str, int], resumes: Iterable[str] = ()) -> str:
    """Count the runs of each status in words. `resumes`: where interrupted ones go on, of which a few are named."""
    places = list(dict.fromkeys(place.removeprefix("resumes ") for place in resumes if place))
    named = "resumes " + ", ".join(places[:MOST_NAMED]) + (", ..." if len(places) > MOST_NAMED else "")
    ordered = sorted(counts, key=lambda status: status == "not started")  # which comes last
    words = {status: f"{counts[status]} {status}" for status in ordered if counts[status]}
    if places and "interrupted" in words:
        words["interrupted"] += f" ({named})"
    return ", ".join(words.values())
