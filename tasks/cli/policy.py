"""`partitions policy`: show a computation's failure policy and rate limit, and change them while the workers run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
import msgspec

from celery_partitions.admin.policies import declared_policy
from celery_partitions.cli.context import computation_named, installation_in, who
from celery_partitions.cli.output import print_facts, prints_facts
from celery_partitions.model.policy import EXHAUSTED_CHOICES, Exhausted, PolicyChange, check_limit, effective_policy
from celery_partitions.model.rate_limit import MAX_BURST, changed_limit
from celery_partitions.runtime.installation import Installation


class _Number(click.FloatRange):
    """A float range that refuses NaN, which is neither below nor above a bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not a number", param, ctx)
        return number


_SECONDS = _Number(min=0, max=1e9)


@click.command(short_help="Show or change a computation's failure policy and rate limit.")
@click.argument("name")
@click.option("--attempts", type=click.IntRange(0, 1_000_000), help="Number of retries after the first attempt.")
@click.option("--backoff", type=_SECONDS, help="Seconds before the first retry. Doubles with each retry.")
@click.option("--longest-backoff", type=_SECONDS, help="Upper bound of the wait, in seconds.")
@click.option(
    "--jitter", type=_Number(0, 1), help="Random change of each wait, as a fraction of it: 0.1 means ±10 %."
)
@click.option("--exhausted", type=click.Choice(EXHAUSTED_CHOICES), help="What happens after the last retry.")
@click.option("--rate-limit", help="How often calls may start, as 10/s, 100/m or 5/h; none: no limit. For computations that declare a limit.")
@click.option("--burst", type=click.IntRange(1, MAX_BURST), help="How many calls may start at once after a pause.")
@click.option("--reset", is_flag=True, help="Restore the policy declared in code.")
@prints_facts
def policy(
    context: click.Context,
    name: str,
    attempts: int | None,
    backoff: float | None,
    longest_backoff: float | None,
    jitter: float | None,
    exhausted: Exhausted | None,
    rate_limit: str | None,
    burst: int | None,
    reset: bool,
    as_json: bool,
) -> None:
    """Show the failure policy and the rate limit of the computation NAME. With options, change it while the workers run.

    A change applies to all workers immediately, is merged with earlier changes, and stays until --reset. Keys that are already
    parked follow it from their next failure.
    """
    installation = installation_in(context)
    name = computation_named(installation, name, with_state=False).name
    requested = PolicyChange(attempts, backoff, longest_backoff, jitter, exhausted, rate_limit, burst)
    _check_limit(installation, name, requested)
    policies = installation.group.policies
    if reset:
        if requested != PolicyChange():
            raise click.UsageError("--reset cannot be combined with other changes")
        policies.change(name, None, by=who())
    elif requested != PolicyChange():
        policies.change(name, _over(policies.get(name), requested), by=who())
    _show(installation, name, policies.get(name), as_json)


def _check_limit(installation: Installation, name: str, requested: PolicyChange) -> None:
    if requested.rate_limit is None and requested.burst is None:
        return
    if installation.computations[name].rate_limit is None:
        raise click.UsageError(f"{name} declares no rate limit, so its calls are not counted. Declare rate_limit= in the code first")
    try:
        check_limit(requested)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate-limit") from None


def _over(before: PolicyChange, requested: PolicyChange) -> PolicyChange:
    fields = {name: value for name, value in msgspec.structs.asdict(requested).items() if value is not None}
    if "rate_limit" in fields and "burst" not in fields:
        fields["burst"] = None  # that of another rate
    return msgspec.structs.replace(before, **fields)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _show(installation: Installation, name: str, change: PolicyChange, as_json: bool) -> None:
    declared = declared_policy(installation.settings, installation.computations[name])
    counts = asdict(effective_policy(declared, None, change))
    counts.pop("only")
    limit = installation.computations[name].rate_limit
    current = None if limit is None else changed_limit(limit, change.rate_limit, change.burst)
    counts |= {"rate_limit": None if current is None else current.text, "burst": None if current is None else current.burst}
    written = {"rate_limit": None if limit is None else limit.text, "burst": None if limit is None else limit.burst}
    only = [kind.__qualname__ for kind in declared.only]
    retried = "every exception" if BaseException in declared.only else ", ".join(only)
    print_facts(
        as_json,
        {"computation": name, "policy": {**counts, "only": only}, "changed": sorted(msgspec.to_builtins(change))},
        ("field", "counts", "declared"),
        [(field, _shown(value), _shown(written[field] if field in written else getattr(declared, field))) for field, value in counts.items()]
        + [("only", retried, retried)],
    )
