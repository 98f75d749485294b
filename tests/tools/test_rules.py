"""The page of rules names every rule."""

from neva_pretrain import chart
from neva_pretrain.check.rules import CHECKS
from tests.tools import rules


def test_it_is_up_to_date() -> None:
    assert rules.made() == rules.PAGE.read_text("utf-8")


def test_each_rule_and_each_format_is_a_row() -> None:
    rows = [line for line in rules.PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    facts = chart.rules()
    assert len(rows) == len(facts["rules"]) + len(facts["formats"]) + len(CHECKS) - 1
