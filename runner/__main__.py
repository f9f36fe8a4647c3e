"""`python -m runner ...`: hands what was typed to Hydra; says in one line what cannot work. Imports no torch.

Every command is a plan: a lone run is a plan of one, `-m` makes the product. So both are composed, checked, skipped
where done, resumed and reported by the same code (`runner.sweep`).
"""

import os
import re
import sys
from pathlib import Path

from runner import __version__
from runner.errors import ConfigError, DiskFull

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

# In a sweep, a key of an option (`optimizer.momentum=0.8`) may fit only what is swept, not the defaults, with which
# Hydra composes the sweep's own config first. As a choice of one it is left to the combinations.
CONSTANT = re.compile(r"^((?!hydra\.|sweep\.)\w+\.[\w.]+)=(?!\w+\()(.+)$")


VALUED = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")


def options_first(argv: list[str]) -> list[str]:
    """Hydra's options before the overrides, wherever they were typed: its parser takes them nowhere else."""
    options, overrides, words = [], [], iter(argv)
    for word in words:
        if not word.startswith("-"):
            overrides.append(word)
        else:
            options += [word, next(words, "")] if word in VALUED else [word]
    return options + overrides


def planned(argv: list[str]) -> list[str]:
    """The arguments with every run sent through the sweeper, which is told whether `-m` was typed."""
    argv = options_first(argv)
    if any(word.split("=")[0] in COMMANDS for word in argv):
        return argv
    if {"-m", "--multirun"} & set(argv):
        return [CONSTANT.sub(r"\1=choice(\2)", word) for word in argv]
    return options_first(["--multirun", *argv, "hydra.sweeper.multirun=false"])


def say(line: str) -> None:
    """On standard error; of several processes that torchrun started, by the first alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0":
        sys.stderr.write(f"runner: {line}\n")


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; the exit code: 0 all done, 1 some run failed or diverged, 2 refused."""
    import hydra
    from hydra.errors import HydraException

    from runner.explain import CONF, explain

    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        sys.stdout.write(f"runner {__version__}, hydra {hydra.__version__}\n")
        return 0
    old_argv, old_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["runner", *planned(argv)]
    old_path = list(sys.path)
    sys.path.append(str(Path.cwd()))  # a class of the user's own may lie where the command is typed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def app(config):
        raise AssertionError("runs are started by the launcher")

    try:
        app()
    except ConfigError as error:
        say(str(error))
        return 2
    except DiskFull as error:
        say(str(error))
        return 1
    except HydraException as error:
        say(explain(error, argv))
        return 2
    except ValueError as error:
        if "Config group override must be" not in str(error):  # what Hydra makes of optimizer=null
            raise
        words = [word for word in argv if (CONF / word.partition("=")[0]).is_dir()]
        say(f"{', '.join(words)}: a group takes the name of one of its options")
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    finally:
        sys.argv, sys.path[:] = old_argv, old_path
        if old_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = old_error
    return 0


def cli() -> None:
    """The console script `runner`."""
    sys.exit(main())


if __name__ == "__main__":
    cli()
