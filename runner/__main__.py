"""`python -m runner ...`: hands what was typed to Hydra; says in one line what cannot work. Imports no torch.

Every command is a plan: a lone run is a plan of one, `-m` makes the product. So both are composed, checked, skipped
where done, resumed and reported by the same code (`runner.sweep`).
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli` hears it: else Ctrl-C would show where an import stood

import gc
import os
import re
import sys
from pathlib import Path

from runner import __version__
from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull
from runner.core.startup import malloc
from runner.core.startup.frames import roomy
from runner.sweep.compose.argv import TYPED, hydra_argv, is_info_command

WAIT = "runner: interrupted: what was trained is saved first; Ctrl-C again ends at once"


def leads() -> bool:
    """Return whether this process is the command: of several that torchrun started, the first is."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["RANK"] == "0"


def say(line: str) -> None:
    """On standard error; of several processes that torchrun started, by the first alone."""
    if leads() and sys.stderr is not None:  # it may be closed
        sys.stderr.write(f"runner: {line}\n")


def interrupted(end: KeyboardInterrupt) -> int:
    """Say what goes on where; return the exit code that shells expect after a signal."""
    if not isinstance(end, interruption.Interrupted):
        end = interruption.Interrupted(signal.SIGINT)
    words = end.words or "the same command goes on where it stopped"
    if any("${now:" in word for word in TYPED.get([])):
        words += " (with the folder's name typed in place of ${now:...}, which names another one each time)"
    say(f"interrupted; {words}")
    return 128 + end.number


@roomy
def main(argv: list[str] | None = None) -> int:
    """Runs one command line; the exit code: 0 all done, 1 some run failed or diverged, 2 refused."""
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
    typed, old_path = TYPED.set(argv), list(sys.path)
    sys.path.append(str(Path.cwd()))  # a class of the user's own may lie where the command is typed
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def app(config):
        raise ConfigError("hydra/sweeper and hydra/launcher: these run single jobs and take no plans; leave them out")

    try:
        with interruption.listening(WAIT if leads() else ""):
            if not is_info_command(argv):
                check_arguments(argv)
                limit()  # refused now: some caches are opened by the first run alone
            app()
    except ConfigError as error:
        say(str(error))
        return 2
    except DiskFull as error:
        say(str(error))
        return 1
    except (HydraException, InterpolationResolutionError) as error:
        say(explain(error, argv))
        return 2
    except ValueError as error:
        if "Config group override must be" not in str(error):  # what Hydra makes of optimizer=null
            raise
        groups = [word for word in argv if (CONF / word.partition("=")[0]).is_dir() or word.startswith("hydra/")]
        words = [word for word in groups if not re.fullmatch(r"[A-Za-z]\w*|\[.*", word.partition("=")[2])]
        words += [word for word in groups if word.endswith(("=null", "=true", "=false"))]
        say(f"{', '.join(words)}: a group takes the name of one of its options")
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except KeyboardInterrupt as end:
        return interrupted(end)
    finally:
        sys.argv, sys.path[:] = old_argv, old_path
        TYPED.reset(typed)
        if old_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = old_error
    return 0


def cli() -> None:
    """The console script `runner`."""
    # What torch, Hydra and the plan make at the start stays: it need not be looked through again and again.
    gc.set_threshold(100_000, 50, 50)
    malloc.keep()  # here alone: a process of somebody else's program, which calls `main`, must be able to shrink
    try:
        with interruption.listening():
            code = main()
    except KeyboardInterrupt as end:  # while Hydra is loaded
        code = interrupted(end)
    sys.exit(code)


if __name__ == "__main__":
    cli()
