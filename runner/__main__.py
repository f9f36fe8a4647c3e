"""Command line `python -m runner ...`: pass the arguments to Hydra, report errors in one line. Imports no torch.

Every command is a plan: a single run is a plan of one, `-m` makes the product. So both are composed, checked, skipped
where done, resumed and reported by the same code (`runner.sweep`).
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli` handles it: else Ctrl-C in an import prints a traceback

import gc
import os
import re
import sys
from pathlib import Path

from runner import __version__
from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull
from runner.core.startup import malloc
from runner.sweep.compose.argv import TYPED, hydra_argv, is_info_command

WAIT = "runner: interrupted: what was trained is saved first; Ctrl-C again ends at once"


def is_main_process() -> bool:
    """Return True except in the processes of rank > 0 that torchrun started."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def print_error(line: str) -> None:
    """Write a line to standard error, in the main process only."""
    if is_main_process() and sys.stderr is not None:  # None where it is closed
        sys.stderr.write(f"runner: {line}\n")


def report_interrupt(interrupt: KeyboardInterrupt) -> int:
    """Print how to continue; return the exit code that shells expect after a signal."""
    if not isinstance(interrupt, interruption.Interrupted):
        interrupt = interruption.Interrupted(signal.SIGINT)
    message = interrupt.words or "the same command goes on where it stopped"
    if any("${now:" in word for word in TYPED.get([])):
        message += " (with the folder's name typed in place of ${now:...}, which names another one each time)"
    print_error(f"interrupted; {message}")
    return 128 + interrupt.number


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit code: 0 all done, 1 a run failed or diverged, 2 refused."""
    argv = list(sys.argv[1:] if argv is None else argv)
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import InterpolationResolutionError

    from runner.store.cache import limit
    from runner.sweep.compose.explain import CONF, check_arguments, explain

    if argv == ["--version"]:
        sys.stdout.write(f"runner {__version__}, hydra {hydra.__version__}\n")
        return 0
    old_argv, old_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["runner", *hydra_argv(argv)]
    token, old_path = TYPED.set(argv), list(sys.path)
    sys.path.append(str(Path.cwd()))  # a user's class may lie in the current folder
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def app(config):
        raise ConfigError("hydra/sweeper and hydra/launcher: these run single jobs and take no plans; leave them out")

    try:
        with interruption.listening(WAIT if is_main_process() else ""):
            if not is_info_command(argv):
                check_arguments(argv)
                limit()  # checked here because some caches are opened only by the first run
            app()
    except ConfigError as error:
        print_error(str(error))
        return 2
    except DiskFull as error:
        print_error(str(error))
        return 1
    except (HydraException, InterpolationResolutionError) as error:
        print_error(explain(error, argv))
        return 2
    except ValueError as error:
        if "Config group override must be" not in str(error):  # Hydra's error for optimizer=null
            raise
        groups = [word for word in argv if (CONF / word.partition("=")[0]).is_dir() or word.startswith("hydra/")]
        invalid = [word for word in groups if not re.fullmatch(r"[A-Za-z]\w*|\[.*", word.partition("=")[2])]
        invalid += [word for word in groups if word.endswith(("=null", "=true", "=false"))]
        print_error(f"{', '.join(invalid)}: a group takes the name of one of its options")
        return 2
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt as interrupt:
        return report_interrupt(interrupt)
    finally:
        sys.argv, sys.path[:] = old_argv, old_path
        TYPED.reset(token)
        if old_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = old_error
    return 0


def cli() -> None:
    """Run the console script `runner`."""
    # Collect garbage less often, because what torch, Hydra and the plan allocate at the start is never freed.
    gc.set_threshold(100_000, 50, 50)
    malloc.keep()  # not in `main`, because a program that calls it must be able to return memory to the system
    try:
        with interruption.listening():
            code = main()
    except KeyboardInterrupt as interrupt:  # while Hydra is loaded
        code = report_interrupt(interrupt)
    sys.exit(code)


if __name__ == "__main__":
    cli()
