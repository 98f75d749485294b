"""Image references by the grammar of the OCI distribution spec, which stands in ``formats`` of files/rules.yaml."""

import re
from functools import cache

from neva_pretrain import chart


def _part(name: str) -> str:
    (pattern,) = (form["pattern"] for form in chart.rules()["formats"] if form["keys"] == f"image.{name}")
    return str(pattern).removeprefix("^").removesuffix("$").removesuffix("?")


@cache
def _reference() -> re.Pattern[str]:
    parts = {name: _part(name) for name in ("repository", "tag", "digest")}
    return re.compile(
        f"(?P<repository>{parts['repository']})(?::(?P<tag>{parts['tag']}))?(?:@(?P<digest>{parts['digest']}))?"
    )


def split(reference: str) -> dict[str, str] | None:
    """Return repository, tag and digest of a reference, those that it has; None where it is none.

    The host may have a port (``registry:5000/ml/nemo:24.07``), so that a colon alone is no tag.
    """
    match = _reference().fullmatch(reference)
    return match and {name: part for name, part in match.groupdict().items() if part}
