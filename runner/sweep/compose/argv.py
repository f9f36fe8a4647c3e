"""Rewrite argv for Hydra's parser. Imports no torch."""

import re
import shlex
from contextvars import ContextVar

# Hydra's own commands: they show the config and run nothing.
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

# In a sweep, a key of an option (`optimizer.momentum=0.8`) may exist only in the swept options. Hydra composes the
# sweep's own config with the defaults first, and would refuse the key. Written as a choice of one value, it is applied
# to the combinations only. (null cannot be a choice.)
CONSTANT = re.compile(r"^((?!hydra\.|sweep\.)\w+\.[\w.]+)=(?!\w+\(|.*\bnull\b)(.+)$")
CHOICE = re.compile(r"^([^=]+)=choice\((.*)\)$")

TYPED: ContextVar[list[str]] = ContextVar("typed")  # the arguments of the current command

OPEN = re.compile(r"^(hydra\.launcher\.parameters\.)")  # a dictionary that takes any key, so it needs `++`
COMMA = re.compile(r"\s*,\s*(?![^\[]*\])")  # outside brackets


def options_first(argv: list[str]) -> list[str]:
    """Return the arguments with Hydra's options before the overrides, because its parser needs that order."""
    options, overrides, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
        elif word in INFO and (not rest or rest[0] not in INFOS):
            options.append("--info=all")  # else Hydra reads the next override as the value of --info
        else:
            options += [word, rest.pop(0) if rest else ""] if word in VALUED + INFO else [word]
    return options + overrides


def is_unknown_option(word: str) -> bool:
    """Return True for an option that Hydra does not have."""
    return word.startswith("-") and word.split("=")[0] not in OPTIONS


def is_info_command(argv: list[str]) -> bool:
    """Return True for a command that shows the config and runs nothing."""
    return any(word.split("=")[0] in COMMANDS for word in argv)


def hydra_argv(argv: list[str]) -> list[str]:
    """Return the arguments for Hydra: always a multirun, so that the sweeper plans single runs as well."""
    argv = [OPEN.sub(r"++\1", _quote_conditions(word)) for word in options_first(argv)]
    if is_info_command(argv):
        return [word for word in argv if word not in MULTIRUN]
    if MULTIRUN & set(argv):
        return [CONSTANT.sub(r"\1=choice(\2)", word) for word in argv]
    return options_first(["--multirun", *argv, "hydra.sweeper.multirun=false"])


def command_line() -> str:
    """Return the current command, quoted for a shell."""
    return shlex.join(["python", "-m", "runner", *TYPED.get()])


def as_typed(word: str) -> str:
    """Return an override as typed: undo the `choice(...)` that `hydra_argv` may have added."""
    return CHOICE.sub(r"\1=\2", word)


def _quote_conditions(word: str) -> str:
    """Quote the conditions of `sweep.exclude` that the shell has left unquoted: Hydra needs quotes around a `=`."""
    key, _, text = word.partition("=")
    if key != "sweep.exclude" or not re.search("[=<>]", text) or re.search("[\"']", text):
        return word
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return f"{key}=" + ",".join(f'"{condition}"' for condition in COMMA.split(text.strip()))
