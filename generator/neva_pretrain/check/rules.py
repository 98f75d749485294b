"""What values break, in the order and the words of the chart's ``templates/_validate.tpl``.

The rules are in ``files/rules.yaml``, which engine.py reads; what needs more than its conditions is a ``check_*``
function of the files by topic, with its twin of that name in the chart; a property test holds the two equal. What one
value alone can tell is in ``values.schema.json``.
"""

from collections.abc import Callable, Iterator, Sequence

from neva_pretrain import chart
from neva_pretrain.chart.access import Values
from neva_pretrain.chart.secrecy import scrubbed
from neva_pretrain.check.config import check_config, check_environment, check_secrets
from neva_pretrain.check.engine import check_rules
from neva_pretrain.check.formats import check_formats
from neva_pretrain.check.network import check_network
from neva_pretrain.check.pods import (
    check_monitoring,
    check_names,
    check_placement,
    check_pods,
    check_profiles,
    check_security,
)
from neva_pretrain.check.storage import check_paths, check_storage
from neva_pretrain.check.training import check_checkpoint, check_training
from neva_pretrain.errors import Violation
from neva_pretrain.facts import Facts

CHECKS: tuple[Callable[[Facts], Iterator[Violation]], ...] = (
    check_rules,
    check_names,
    check_training,
    check_checkpoint,
    check_storage,
    check_paths,
    check_pods,
    check_placement,
    check_monitoring,
    check_environment,
    check_secrets,
    check_profiles,
    check_security,
    check_network,
    check_config,
)


def violations(facts: Facts) -> list[Violation]:
    """Return every rule that complete, schema-valid values break."""
    return shape_violations(facts.values) or broken_rules(facts)


def broken_rules(facts: Facts) -> list[Violation]:
    """Return every rule that values of the right shape break."""
    return without_followers([violation for check in CHECKS for violation in check(facts)])


def shape_violations(values: Values) -> list[Violation]:
    """Return what is missing or misshapen, and with it every secret in clear."""
    broken = list(check_formats(values))
    return scrub([*broken, *check_secrets(Facts(values))]) if broken else []


def without_followers(violations: Sequence[Violation]) -> list[Violation]:
    """Return violations without those whose advice follows from another broken value, and without secrets."""
    follows, broken = chart.rules()["follows"], {v.key for v in violations}
    return scrub([v for v in violations if broken.isdisjoint(follows.get(v.key, ()))])


def scrub(violations: Sequence[Violation]) -> list[Violation]:
    """Return violations without secrets."""
    return [Violation(*(scrubbed(part) for part in (v.key, v.got, v.rule, v.fix))) for v in violations]
