"""What Hydra's grammar cannot read, in one line that shows how it is typed."""

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
    """What to say of a sweep inside a list or beside other values, which Hydra reads and cannot use."""
    text = word.partition("=")[2]
    if not re.search(SEVERAL, text) or re.search("[\"']", text):
        return None
    if (match := ALONE.fullmatch(text)) and not re.search(SEVERAL, match[1]):
        return None
    return f"{word}: interval, range, choice and glob stand alone, not in a list nor beside other values"


def explain_syntax(error: OverrideParseException) -> str:
    """The word, what is wrong with it, the way out."""
    word = as_typed(error.override)
    key, sign, text = word.partition("=")
    if key in OWN and sign:
        return f"{word}: {OWN[key]}"
    if match := re.search(r"while evaluating '(\w+)\(", error.message):
        name = match[1]
        if name in USAGE:
            numbers = ", with numbers" if name in ("interval", "range", "tag") else ""
            return f"{word}: type {USAGE[name]}{numbers}"
        usual = ", ".join(USAGE[known] for known in ("choice", "range", "interval", "tag"))
        return f"{word}: no function '{name}'; type {usual}{did_you_mean(name, USAGE)}"
    told = f"cannot read '{word}'"
    if not sign:
        return f"{told}: write KEY=VALUE, without spaces around the ="
    if any(text.count(one) != text.count(other) for one, other in ("()", "[]", "{}")):
        return f"{told}: brackets are not closed (in quotes, that the shell leaves them alone)"
    if any(text.count(quote) % 2 for quote in "'\""):
        return f"{told}: quotes are not closed"
    if text.rstrip().endswith(",") or ",," in text:
        return f"{told}: a value is missing at a comma"
    if not re.fullmatch(r"[+~]{0,2}[\w./@-]+", key):
        return f"{told}: '{key}' is no key; write KEY=VALUE, without spaces around the ="
    if text.startswith("("):
        return f"{told}: several values are {key}=A,B; a list is '{key}=[A,B]'"
    return f"{told}: a value that holds one of = ; ( goes in quotes of its own, \"{key}='VALUE'\""
