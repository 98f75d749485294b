"""Everything that can be said about a values file before a GPU is used: schema, rules, memory, warnings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from neva_pretrain.chart import values
from neva_pretrain.chart.access import section
from neva_pretrain.check import advice, config, rules, schema
from neva_pretrain.errors import RefusedError, Violation
from neva_pretrain.facts import Facts
from neva_pretrain.model.hardware import Gpu
from neva_pretrain.plan import explain, saving
from neva_pretrain.plan.fit import check_fit
from neva_pretrain.plan.plan import REFERENCE_BATCH, Plan
from neva_pretrain.plan.search import SearchRequest, search
from neva_pretrain.plan.setup import Setup
from neva_pretrain.plan.time import speedup, step_time, useful_flops

WORTH_SAYING = 1.05
"""Gain from which the planner speaks up; less is within the cost model's error."""

STORE_SCALE = 1024
"""Ranks up to which torch's TCPStore is known to start; at 1536 resets were seen (PyTorch #76913, B05)."""


class Verdict(NamedTuple):
    """What is wrong with a values file, and what a user should know of it: warnings begin with the value's key."""

    violations: tuple[Violation, ...] = ()
    warnings: tuple[str, ...] = ()


def judge(facts: Facts, gpu: Gpu | None = None) -> Verdict:
    """Judge values as Helm would see them.

    Rules are judged on values of the right shape only, and memory on a plan that obeys them.

    Args:
        facts: the values and what follows from them.
        gpu: kind of GPU; None for ``training.gpu``.
    """
    if broken := violations(facts):
        return Verdict(tuple(broken))
    setup = replace(facts.setup, gpu=gpu) if gpu else facts.setup
    fit = check_fit(setup)
    said = (*fit.warnings, *advice.warnings(facts.values), *config.unread(facts.values), *_warnings(facts.plan, setup))
    return Verdict(fit.violations, said)


def violations(facts: Facts) -> list[Violation]:
    """Return why the chart would refuse values: their shape, else the rules between them."""
    return schema.violations(facts.values) or rules.broken_rules(facts)


def accepted(facts: Facts) -> Facts:
    """Return the facts of values that the chart takes.

    Raises:
        RefusedError: the chart would refuse them; all that is wrong.
    """
    if broken := violations(facts):
        raise RefusedError(broken)
    return facts


def saves(facts: Facts) -> tuple[str, ...]:
    """Return what is to be said of how often accepted values save."""
    return tuple(saving.warnings(facts.setup, facts.plan.max_steps))


def with_prediction(partial: Mapping[str, Any], facts: Facts, setup: Setup) -> dict[str, Any]:
    """Return a file's values with what the exporter measures the run against, where it is on; what they say stays."""
    if not section(facts.values, "monitoring", "exporter").get("enabled"):
        return dict(partial)
    plan = {
        "stepSeconds": float(f"{step_time(setup).total / 1000:.3g}"),
        "flopsPerSample": float(f"{useful_flops(setup.model, setup.tokens_per_sample):.4g}"),
        "peakTflops": setup.gpu.peak_tflops,
    }
    return {**partial, "monitoring": values.overlay({"plan": plan}, partial["monitoring"])}


def possible_gain(setup: Setup) -> list[str]:
    """Say what the planner would gain over a setup with the same GPUs and global batch, and what that needs."""
    best = search(
        SearchRequest(
            setup.model,
            setup.world_size,
            gpu=setup.gpu,
            gpus_per_node=setup.gpus_per_node,
            fixed_global_batch_size=setup.global_batch_size,
            kernels=setup.kernels,
            checkpoint_interval=setup.checkpoint_interval,
        )
    ).best
    ours = step_time(setup)
    if best.rate / ours.samples_per_second_per_gpu < WORTH_SAYING:
        return []
    sizes = f"TP {best.setup.tensor_parallel_size}, MBS {best.setup.micro_batch_size}"
    has = explain.requirements(setup)
    needs = "".join(f"\n  {sentence}" for sentence in explain.requirements(best.setup) if sentence not in has)
    said = f"--optimize: {sizes} would be {speedup(best.time, ours)} as fast (neva-values plan explains why)"
    return [f"{said}; it needs{needs}" if needs else said]


def _warnings(plan: Plan, setup: Setup) -> list[str]:
    said = [f"training.{key}: {sentence}" for key, sentence in explain.changes(setup)]
    if plan.global_batch_size != REFERENCE_BATCH:
        said.append(
            f"training.learningRate: tuned at a global batch size of {REFERENCE_BATCH}, not {plan.global_batch_size}: "
            "check it (--batch-policy fixed keeps the batch)"
        )
    if plan.gpus > STORE_SCALE:
        said.append(
            f"training.nodes: {plan.gpus} ranks: torch before 2.4 may reset connections to its store above "
            f"{STORE_SCALE} (PyTorch #76913); nemo:24.07 has 2.3"
        )
    return said
