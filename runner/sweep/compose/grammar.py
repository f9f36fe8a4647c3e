"""Messages for overrides that Hydra's grammar cannot read: one line that shows the right syntax."""

import re

from hydra.errors import OverrideParseException

from runner.core.errors import did_you_mean
from runner.sweep.compose.argv import as_typed

USAGE = {
    "interval": "interval(LOW,HIGH)",
    "range": "range(START,STOP,STEP)",
    "choice": "choice(A,B,...)",
    "glob": "glob(PATTERN), such as glob(*)",
    "tag": "tag(log,interval(LOW,HIGH))",
    "shuffle": "shuffle(A,B,...)",
    "sort": "sort(A,B,...)",
    "int": "int(interval(LOW,HIGH)) or a whole number",
    "float": "float(NUMBER)",
    "str": "str(WORD)",
    "bool": "bool(true) or bool(false)",
}
OWN = {
    "sweep.exclude": (
        "a condition is KEY=VALUE (or != < <= > >=), several joined by & or |, the whole word in quotes: "
        "'sweep.exclude=optimizer=sgd & optimizer.lr>0.5'"
    ),
    "sweep.zip": "must be a list of swept keys, sweep.zip=KEY,KEY, or of groups, 'sweep.zip=[[A,B],[C,D]]'",
}


SEVERAL = r"\b(?:interval|range|choice|glob)\("
ALONE = re.compile(rf"(?:(?:tag|int|float|str|bool|shuffle|sort)\((?:\w+,\s*)*)*{SEVERAL}(.*)\)+")


def explain_nested_sweep(word: str) -> str | None:
    """Return one line for a sweep in a list or beside other values, which Hydra parses but cannot use; else None."""
    text = word.partition("=")[2]
    if not re.search(SEVERAL, text) or re.search("[\"']", text):
        return None
    if (match := ALONE.fullmatch(text)) and not re.search(SEVERAL, match[1]):
        return None
    return f"{word}: interval, range, choice and glob stand alone, not in a list nor beside other values"


def explain_syntax(error: OverrideParseException) -> str:
    """Return one line for an override that cannot be parsed: what is wrong, what to type."""
    word = as_typed(error.override)
    key, sign, text = word.partition("=")
    if key in OWN and sign:
        return f"{word}: {OWN[key]}"
    if match := re.search(r"while evaluating '(\w+)\(", error.message):
        name = match[1]
        if name in USAGE:
            numbers = ", with numbers" if name in ("interval", "range", "tag") else ""
            return f"{word}: type {USAGE[name]}{numbers}"
        functions = ", ".join(USAGE[function] for function in ("choice", "range", "interval", "tag"))
        return f"{word}: no function '{name}'; type {functions}{did_you_mean(name, USAGE)}"
    message = f"cannot read '{word}'"
    if not sign:
        return f"{message}: write KEY=VALUE, without spaces around the ="
    if any(text.count(opening) != text.count(closing) for opening, closing in ("()", "[]", "{}")):
        return f"{message}: brackets are not closed (in quotes, that the shell leaves them alone)"
    if any(text.count(quote) % 2 for quote in "'\""):
        return f"{message}: quotes are not closed"
    if text.rstrip().endswith(",") or ",," in text:
        return f"{message}: a value is missing at a comma"
    if not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key):
        return f"{message}: '{key}' is no key; write KEY=VALUE, without spaces around the ="
    if text.startswith("("):
        return f"{message}: several values are {key}=A,B; a list is '{key}=[A,B]'"
    if re.search(r"\$\{[^}]*\$\{", text):
        return f"{message}: an interpolation inside another goes in quotes of its own, \"{key}='VALUE'\""
    return f"{message}: a value that holds one of = ; ( goes in quotes of its own, \"{key}='VALUE'\""
