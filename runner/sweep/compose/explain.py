"""Messages for Hydra's and OmegaConf's errors, in one line: what was typed, what is allowed, what to type."""

import re
from pathlib import Path

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

import runner
from runner.core.errors import ConfigError, did_you_mean
from runner.core.schema import STACKS
from runner.sweep.compose.argv import MULTIRUN, as_typed, is_unknown_option
from runner.sweep.compose.grammar import OWN, explain_nested_sweep, explain_syntax
from runner.sweep.compose.plugins import explain_plugin_key, full_keys, plugin_options

MANY = 12  # above so many, keys are not listed where one is similar
FEW = 5  # options that a message lists
PLUGIN_KEY = re.compile(r"hydra\.(launcher|sweeper)\.(\w+)")

PACKAGE = Path(runner.__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # installed, checkout


def options(group: str) -> list[str]:
    """Return the names of a group's options in the shipped configs, sorted."""
    files = (file.relative_to(CONF / group) for file in (CONF / group).rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files)


def keys(group: str) -> list[str]:
    """Return the keys of all options of a group, with those that all options share, sorted."""
    shared = OmegaConf.load(CONF / "config.yaml").get(group)
    names = set(shared) if isinstance(shared, DictConfig) else set()
    for file in (CONF / group).glob("*.yaml"):
        names |= {key for key in OmegaConf.load(file) if not str(key).startswith("_") and key != "defaults"}
    return sorted(names)


def top_keys() -> list[str]:
    """Return the keys and groups at the top level of the config, sorted."""
    config = OmegaConf.load(CONF / "config.yaml")
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    return sorted({*(str(key) for key in config if key not in ("defaults", "hydra")), *groups})


def explain(error: Exception, typed: list[str]) -> str:
    """Return one line for a composition error; `typed`: the user's overrides, to name the wrong one."""
    message = str(error)
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^/']*)'", message):
        group, name = match.groups()
        known = sorted({*(getattr(error, "options", None) or ()), *options(group)})
        if group in ("hydra/launcher", "hydra/sweeper"):
            unsupported = plugin_options(group.partition("/")[2], provided=False)
            known = [option for option in known if option not in unsupported]
        return f"{group}={name}: no such option; {group} has {', '.join(known)}{did_you_mean(name, known)}"
    if match := re.search(r"Could not (?:override|delete|append to config)[^']*'([^']+)'", message):
        return _explain_unknown_key(match[1], typed, message)
    if isinstance(error, OverrideParseException):
        return _explain_misspelt_key(error) or explain_syntax(error)
    if match := re.match(r"Error merging override ((.+?)=.*)", message):
        return f"{as_typed(match[1])}: {OWN.get(match[2], f'does not fit what is there{_cause(error)}')}"
    if match := re.search(r"Sweeping over Hydra's configuration is not supported *: *'(.+)'", message):
        return f"{match[1]}: is about the whole sweep; type one value"
    if match := re.match(r"Ambiguous value for argument '(.+?)'", message):
        return f"{as_typed(match[1])}: several values; type one of them to look at the config"
    if match := re.match(r"Multiple values for ([\w/@.]+)\.", message):
        return f"+{match[1]}: an option is chosen already; type {match[1]}=OPTION, without +"
    if isinstance(error, InterpolationResolutionError):
        words = [word for word in typed if "${" in word] or [error.full_key or "config"]
        return f"{', '.join(words)}: {message.splitlines()[0]}"
    return " ".join(message.split("\n")[0].split()) + _cause(error)


def _cause(error: Exception) -> str:
    return f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ and str(error.__cause__) else ""


def _explain_misspelt_key(error: OverrideParseException) -> str | None:
    """Return a line for an unknown key that is similar to a known one; else None.

    The error is about the value. It may be right for the intended key, in quotes that the shell has removed.
    """
    key, _, text = as_typed(error.override).partition("=")
    if "=" not in text or not re.fullmatch(r"[\w.]+", key) or key.startswith("hydra.") or _exists(key):
        return None
    line = _explain_unknown_key(key, [], "")
    return line if "did you mean" in line else None


def _exists(key: str) -> bool:
    """Return whether the config or any option of a group has a key."""
    group, _, rest = key.partition(".")
    if not rest or group not in top_keys():
        return key in top_keys()
    if group in STACKS:
        return rest.partition(".")[0] in options(group)
    return rest.partition(".")[0] in keys(group)


def _explain_unknown_key(key: str, typed: list[str], message: str) -> str:
    """Return one line for a key that the composed config does not have.

    The line leaves the value out where it can, because in a sweep one line then stands for all values.
    """
    group, _, rest = key.partition(".")
    word = next((word for word in typed if word.lstrip("+~").startswith(f"{key}=")), key)
    if "already exists" in message or "already at" in message:
        return f"{word}: '{key}' is there already: type it without +"
    if not rest:
        near = did_you_mean(key, top_keys())
        inner = [*(f"{part}.{key}" for part in top_keys() if part not in STACKS and key in keys(part)), *full_keys(key)]
        if inner and not near:
            near = f"; did you mean {' or '.join(map(repr, inner[:FEW]))}?"
        return f"{key}: no key or group '{key}'{near}"
    if group not in (*top_keys(), "hydra"):
        return f"{key}: no group '{group}'{did_you_mean(group, top_keys())}"
    if group in STACKS:
        item, _, item_key = rest.partition(".")
        items = options(group)
        if item not in items:
            return f"{key}: {group} has no item '{item}'; it has {', '.join(items)}{did_you_mean(item, items)}"
        file = OmegaConf.load(CONF / group / f"{item}.yaml")
        if "defaults" in file:
            return f"{key}: '{item}' is the list [{','.join(file.defaults)}]; set a key of one of these"
        item_keys = [str(k) for k in file if not str(k).startswith("_")]
        if item_key and item_key not in item_keys:
            if OmegaConf.is_missing(file, "name"):  # its keys are the arguments of the named class
                return f"{word}: type it with a +, as '+{word}': '{item}' itself has no key '{item_key}'"
            near = did_you_mean(item_key, item_keys)
            return f"{key}: '{item}' has no key '{item_key}'; it has {', '.join(item_keys)}{near}"
        return f"{key}: '{item}' is not in the stack; add it ('{group}=[{item}]') or leave the key out"
    first, _, inner = rest.partition(".")
    if inner and isinstance(part := OmegaConf.load(CONF / "config.yaml").get(group, {}).get(first), DictConfig):
        group, rest, known = f"{group}.{first}", inner, sorted(map(str, part))
    else:
        known = keys(group)
    if rest in known:
        if key in (word.partition("=")[0].removeprefix("~") for word in typed if word.startswith("~")):
            return f"~{key}: the chosen {group} has no key '{rest}' to remove; leave ~{key} out"
        having = [option for option in options(group) if rest in OmegaConf.load(CONF / group / f"{option}.yaml")]
        ellipsis = ", ..." if len(having) > FEW else ""
        verb = "has" if len(having) == 1 else "have"
        return f"{key}: the chosen {group} has no key '{rest}'; {', '.join(having[:FEW])}{ellipsis} {verb} it"
    near = did_you_mean(rest, known)
    listed = f"; it has {', '.join(known)}" if known and not (near and len(known) > MANY) else ""
    return f"{key}: no key '{rest}' in {group}{listed}{near}"


def check_arguments(words: list[str]) -> None:
    """Raise `ConfigError` for arguments that Hydra accepts and the runner cannot use.

    Among them are launchers and sweepers of single jobs, unknown keys of a launcher or sweeper, and unknown options.
    """
    for word in words:
        if match := re.fullmatch(r"hydra/(launcher|sweeper)=(.+)", word):
            part, option = match.groups()
            if option in plugin_options(part, provided=False):
                allowed = ", ".join(plugin_options(part, provided=True))
                raise ConfigError(f"{word}: runs single jobs and takes no plans; hydra/{part} may be {allowed}")
        if re.match(r"hydra\.(launcher|sweeper)=", word):
            key = word.partition("=")[0]
            raise ConfigError(
                f"{word}: choose with {key.replace('.', '/')}=OPTION; its keys are typed one by one, {key}.KEY=VALUE"
            )
        if match := PLUGIN_KEY.match(word.lstrip("+~")):
            line = explain_plugin_key(word, match[1], match[2], _chosen_plugin(match[1], words))
            if line is not None:
                raise ConfigError(line)
        group = word[1:].partition("=")[0] if word.startswith("~") else ""
        if group.startswith("hydra/") or group not in ("", "experiment", "hydra") and (CONF / group).is_dir():
            choice = f"{group}=[]" if group in STACKS else f"{group}=OPTION"
            raise ConfigError(f"{word}: a group cannot be removed; type {choice}")
        if "=" in word and re.search(r"(?<![\w?])\?\?\?(?![\w?])", word.partition("=")[2]):
            raise ConfigError(f"{word}: ??? stands for a missing value; type the value")
        if re.fullmatch(r"hydra\.(sweep|run)\.dir=(''|\"\")?", word):
            raise ConfigError(f"{word}: must name a folder")
        if word.lstrip("+").startswith("hydra.sweep.") and not MULTIRUN & set(words):
            raise ConfigError(f"{word}: is about several runs: add -m; a lone run's folder is hydra.run.dir=FOLDER")
        if word.lstrip("+").startswith("hydra.run.") and MULTIRUN & set(words):
            raise ConfigError(f"{word}: is a lone run's folder; with -m type hydra.sweep.dir=FOLDER")
        if match := re.match(r"\+*hydra\.job\.(id|num|override_dirname)=", word):
            raise ConfigError(f"{word}: each run has its own hydra.job.{match[1]}; leave it out")
        if word.startswith("hydra.job.chdir=") and not word.endswith("=false"):
            raise ConfigError(f"{word}: paths are those of where the command is typed; leave it out")
        if word.startswith("hydra.sweeper.") and not MULTIRUN & set(words):
            raise ConfigError(f"{word}: is about several runs: add -m")
        if (line := explain_nested_sweep(word)) is not None:
            raise ConfigError(line)
        if is_unknown_option(word):
            raise ConfigError(f"{word}: no such option (python -m runner --help); keys have no dashes, KEY=VALUE")


def _chosen_plugin(part: str, typed: list[str]) -> str:
    """Return the launcher or sweeper that is typed, else that of the shipped config."""
    group = f"hydra/{part}"
    if names := [word.partition("=")[2] for word in typed if word.startswith(f"{group}=")]:
        return names[-1]
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    return next(entry[f"override {group}"] for entry in defaults if f"override {group}" in entry)
