"""Description of a trained network in a checkpoint, with checks of its options.

The file's own `trust` key is ignored.
"""

from pathlib import Path
from typing import Any

from runner.build.check import option_complaints
from runner.core.targets import downloads
from runner.store.about import describe, refusal, settings

BUILT = ("model", "regularization", "augmentation")  # groups of its config that objects are built from


def describe_network(text: Any, source: str | Path, trust: list[str]) -> dict[str, Any]:
    """Return the description in a checkpoint's `about`, with `trust` in place of its own.

    Raises `ConfigError` where it is invalid, or where its network may not be built.
    """
    about = describe(text, source)
    config = settings(about, source) | {"trust": trust}
    check_options(source, config, BUILT)
    if not trust and (paths := [path for group in BUILT for path in downloads(group, config[group])]):
        raise refusal(source, f"{paths[0]}: would fetch weights; a checkpoint brings its own")
    return about | {"config": config}


def check_options(source: str | Path, config: dict[str, Any], groups: tuple[str, ...]) -> None:
    """Raise `ConfigError` where options of these groups of a checkpoint's config may not be built."""
    if lines := [line for group in groups for line in option_complaints(config, group)]:
        raise refusal(source, "; ".join(lines))
