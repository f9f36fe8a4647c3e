"""Hydra's and OmegaConf's errors in one line: what was typed, what is allowed, the way out."""

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

MANY = 12  # keys that are not listed where one is near
FEW = 5  # options that are named
PLUGIN_KEY = re.compile(r"hydra\.(launcher|sweeper)\.(\w+)")

PACKAGE = Path(runner.__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # installed, checkout


def options(group: str) -> list[str]:
    """The names a user may choose from in a group of the shipped configs."""
    files = (file.relative_to(CONF / group) for file in (CONF / group).rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files)


def keys(group: str) -> list[str]:
    """Every key that some option of a group has, with the keys that the group shares."""
    shared = OmegaConf.load(CONF / "config.yaml").get(group)
    found = set(shared) if isinstance(shared, DictConfig) else set()
    for file in (CONF / group).glob("*.yaml"):
        found |= {key for key in OmegaConf.load(file) if not str(key).startswith("_") and key != "defaults"}
    return sorted(found)


def top_keys() -> list[str]:
    """Keys and groups at the top of the config."""
    config = OmegaConf.load(CONF / "config.yaml")
    groups = [folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra"]
    return sorted({*(str(key) for key in config if key not in ("defaults", "hydra")), *groups})


def explain(error: Exception, typed: list[str]) -> str:
    """One line for a composition error; `typed` are the user's overrides, to name the one at fault."""
    message = str(error)
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^/']*)'", message):
        group, name = match.groups()
        known = sorted({*(getattr(error, "options", None) or ()), *options(group)})
        if group in ("hydra/launcher", "hydra/sweeper"):
            others = plugin_options(group.partition("/")[2], provided=False)
            known = [option for option in known if option not in others]
        return f"{group}={name}: no such option; {group} has {', '.join(known)}{did_you_mean(name, known)}"
    if match := re.search(r"Could not (?:override|delete|append to config)[^']*'([^']+)'", message):
        return _unknown_key(match[1], typed, message)
    if isinstance(error, OverrideParseException):
        return _misspelt(error) or explain_syntax(error)
    if match := re.match(r"Error merging override ((.+?)=.*)", message):
        return f"{as_typed(match[1])}: {OWN.get(match[2], f'does not fit what is there{_cause(error)}')}"
    if match := re.search(r"Sweeping over Hydra's configuration is not supported *: *'(.+)'", message):
        return f"{match[1]}: is about the whole sweep; type one value"
    if match := re.match(r"Ambiguous value for argument '(.+?)'", message):
        return f"{as_typed(match[1])}: several values; type one of them to look at the config"
    if match := re.match(r"Multiple values for ([\w/@.]+)\.", message):
        return f"+{match[1]}: an option is chosen already; type {match[1]}=OPTION, without +"
    if isinstance(error, InterpolationResolutionError):
        said = [word for word in typed if "${" in word] or [error.full_key or "config"]
        return f"{', '.join(said)}: {message.splitlines()[0]}"
    return " ".join(message.split("\n")[0].split()) + _cause(error)


def _cause(error: Exception) -> str:
    return f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ and str(error.__cause__) else ""


def _misspelt(error: OverrideParseException) -> str | None:
    """What to say of a key that is near to one, where its value cannot be read: the shell took the quotes, perhaps."""
    key, _, text = as_typed(error.override).partition("=")
    if "=" not in text or not re.fullmatch(r"[\w.]+", key) or key.startswith("hydra.") or _exists(key):
        return None
    told = _unknown_key(key, [], "")
    return told if "did you mean" in told else None


def _exists(key: str) -> bool:
    """Whether some option has it."""
    group, _, rest = key.partition(".")
    if not rest or group not in top_keys():
        return key in top_keys()
    if group in STACKS:
        return rest.partition(".")[0] in options(group)
    return rest.partition(".")[0] in keys(group)


def _unknown_key(key: str, typed: list[str], message: str) -> str:
    """A key that the composed config does not have. Named without its value: in a sweep one line is for all values."""
    group, _, rest = key.partition(".")
    said = next((word for word in typed if word.lstrip("+~").startswith(f"{key}=")), key)
    if "already exists" in message or "already at" in message:
        return f"{said}: '{key}' is there already: type it without +"
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
            if OmegaConf.is_missing(file, "name"):  # its own keys are those of the class that is named
                return f"{said}: type it with a +, as '+{said}': '{item}' itself has no key '{item_key}'"
            near = did_you_mean(item_key, item_keys)
            return f"{key}: '{item}' has no key '{item_key}'; it has {', '.join(item_keys)}{near}"
        return f"{key}: '{item}' is not in the stack; add it ('{group}=[{item}]') or leave the key out"
    first, _, inner = rest.partition(".")
    if inner and isinstance(part := OmegaConf.load(CONF / "config.yaml").get(group, {}).get(first), DictConfig):
        group, rest, known = f"{group}.{first}", inner, sorted(map(str, part))
    else:
        known = keys(group)
    if rest in known:
        others = [option for option in options(group) if rest in OmegaConf.load(CONF / group / f"{option}.yaml")]
        more = ", ..." if len(others) > FEW else ""
        have = "has" if len(others) == 1 else "have"
        return f"{key}: the chosen {group} has no key '{rest}'; {', '.join(others[:FEW])}{more} {have}"
    near = did_you_mean(rest, known)
    listed = f"; it has {', '.join(known)}" if known and not (near and len(known) > MANY) else ""
    return f"{key}: no key '{rest}' in {group}{listed}{near}"


def check_arguments(words: list[str]) -> None:
    """Raises `ConfigError` for what Hydra would begin, or take without a word: launchers and sweepers that take no
    plans, added keys that they do not have, options that nobody knows."""
    for word in words:
        if match := re.fullmatch(r"hydra/(launcher|sweeper)=(.+)", word):
            part, option = match.groups()
            if option in plugin_options(part, provided=False):
                ours = ", ".join(plugin_options(part, provided=True))
                raise ConfigError(f"{word}: runs single jobs and takes no plans; hydra/{part} may be {ours}")
        if re.match(r"hydra\.(launcher|sweeper)=", word):
            key = word.partition("=")[0]
            raise ConfigError(
                f"{word}: choose with {key.replace('.', '/')}=OPTION; its keys are typed one by one, {key}.KEY=VALUE"
            )
        if match := PLUGIN_KEY.match(word.lstrip("+~")):
            told = explain_plugin_key(word, match[1], match[2], _chosen(match[1], words))
            if told is not None:
                raise ConfigError(told)
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
        if (told := explain_nested_sweep(word)) is not None:
            raise ConfigError(told)
        if is_unknown_option(word):
            raise ConfigError(f"{word}: no such option (python -m runner --help); keys have no dashes, KEY=VALUE")


def _chosen(part: str, typed: list[str]) -> str:
    """The launcher or sweeper that is typed, else the shipped config's."""
    group = f"hydra/{part}"
    if found := [word.partition("=")[2] for word in typed if word.startswith(f"{group}=")]:
        return found[-1]
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    return next(entry[f"override {group}"] for entry in defaults if f"override {group}" in entry)
