"""What was typed, in the words that Hydra takes. Imports no torch."""

import re
import shlex
from contextvars import ContextVar

# Hydra's own commands, which look at the config and run nothing.
COMMANDS = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)
MULTIRUN = {"--multirun", "-m"}
FLAGS = (*MULTIRUN, "--run", "-r", "--resolve")
INFO = ("--info", "-i")
INFOS = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
VALUED = (
    "--cfg",
    "-c",
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--package",
    "-p",
    "--experimental-rerun",
)

OPTIONS = COMMANDS + FLAGS + VALUED

# In a sweep, a key of an option (`optimizer.momentum=0.8`) may fit only what is swept, not the defaults, with which
# Hydra composes the sweep's own config first. As a choice of one it is left to the combinations (null is no choice).
CONSTANT = re.compile(r"^((?!hydra\.|sweep\.)\w+\.[\w.]+)=(?!\w+\(|.*\bnull\b)(.+)$")
CHOICE = re.compile(r"^([^=]+)=choice\((.*)\)$")

TYPED: ContextVar[list[str]] = ContextVar("typed")  # the arguments of the command that is being done

OPEN = re.compile(r"^(hydra\.launcher\.parameters\.)")  # a dictionary that takes any key: none is there to override
COMMA = re.compile(r"\s*,\s*(?![^\[]*\])")  # outside brackets


def options_first(argv: list[str]) -> list[str]:
    """Hydra's options before the overrides, wherever they were typed: its parser takes them nowhere else."""
    options, overrides, left = [], [], list(argv)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
        elif word in INFO and (not left or left[0] not in INFOS):
            options.append("--info=all")  # else an override that follows would be taken for what to show
        else:
            options += [word, left.pop(0) if left else ""] if word in VALUED + INFO else [word]
    return options + overrides


def is_unknown_option(word: str) -> bool:
    """Whether a word looks like an option, and Hydra has no such one."""
    return word.startswith("-") and word.split("=")[0] not in OPTIONS


def is_info_command(argv: list[str]) -> bool:
    """Whether a command only looks at the config."""
    return any(word.split("=")[0] in COMMANDS for word in argv)


def hydra_argv(argv: list[str]) -> list[str]:
    """The arguments with every run sent through the sweeper, which is told whether `-m` was typed."""
    argv = [OPEN.sub(r"++\1", _quoted(word)) for word in options_first(argv)]
    if is_info_command(argv):
        return [word for word in argv if word not in MULTIRUN]
    if MULTIRUN & set(argv):
        return [CONSTANT.sub(r"\1=choice(\2)", word) for word in argv]
    return options_first(["--multirun", *argv, "hydra.sweeper.multirun=false"])


def command_line() -> str:
    """Return the command that is being done, as a shell takes it."""
    return shlex.join(["python", "-m", "runner", *TYPED.get()])


def as_typed(word: str) -> str:
    """A word without the choice of one that `hydra_argv` may have made of it."""
    return CHOICE.sub(r"\1=\2", word)


def _quoted(word: str) -> str:
    """Conditions in the quotes that Hydra needs around a `=` in a value, where the shell has left none."""
    key, _, text = word.partition("=")
    if key != "sweep.exclude" or not re.search("[=<>]", text) or re.search("[\"']", text):
        return word
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return f"{key}=" + ",".join(f'"{condition}"' for condition in COMMA.split(text.strip()))
