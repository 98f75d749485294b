"""Required values, keys of earlier versions and the format of texts, which all other rules rely on."""

from collections.abc import Iterator, Mapping

from neva_pretrain import chart
from neva_pretrain.chart.access import Values, text
from neva_pretrain.chart.secrecy import Entry, compiled, one_line, select, show, walk
from neva_pretrain.errors import Violation


def check_formats(values: Values) -> Iterator[Violation]:
    """Required values, keys of earlier versions and the format of texts, which all other rules rely on."""
    facts = chart.rules()
    required = [
        (f"{part}.{key}".removeprefix("."), key) for part, keys in facts["required"].items() for key in keys.split()
    ]
    missing = {e.path for path, _ in required for e in select(values, path) if e.node is None}
    for path in sorted(missing - {name for names in facts["optional"].values() for name in names}):
        fix = "leave the default, or set it (with helm upgrade: --reset-then-reuse-values)"
        fix = "add it" if "[" in path else fix  # items of lists have no defaults
        yield Violation(path, "nothing", "must be set", fix)
    for path, renamed in facts["renamed"].items():
        for entry in select(values, path):
            if entry.node is not None:
                rule = f"must not be set, since {renamed['now']} has replaced it"
                yield Violation(path, show(text(entry.node), path) or "nothing", rule, renamed["fix"])
    for form in facts["formats"]:
        for entry in (e for path in form["keys"].split() for e in select(values, path)):
            said = text(entry.node)
            if entry.node is None or isinstance(entry.node, Mapping | list):
                continue
            right = "pattern" not in form or compiled(form["pattern"]).search(said)
            if not right or ("never" in form and compiled(form["never"]).search(said)):
                yield Violation(one_line(entry.path), show(said, entry.path) or "nothing", form["rule"], form["fix"])
    for entry in entries(values):
        said = "" if isinstance(entry.node, Mapping | list) else text(entry.node)
        if compiled(facts["unprintable"]).search(entry.name + said):
            rule = "must be printable characters, keys included"
            yield Violation(one_line(entry.path), show(said, entry.path) or "a key", rule, "remove other characters")


def entries(values: Values) -> Iterator[Entry]:
    """Yield every value except ``global``, which other charts share."""
    return walk({key: value for key, value in values.items() if key != "global"}, "")
