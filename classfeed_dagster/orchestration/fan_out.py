"""An asset that several workers make together: within a run, work is shared out to dynamic steps and put together.

A stage is two steps: one says into how many shares the work divides, the other does one share. No share: the last step
does everything itself, as on ordinary days. Steps hand each other nothing but their being done; what they make is in
the object store. Workers need share nothing else.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from classfeed_dagster.orchestration.step_context import StepContext
from classfeed_dagster.runtime import Runtime

Results = Iterator[dg.MaterializeResult[None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Work that can be shared out: ``shares`` says into how many parts, ``work`` does one of them (from 0)."""

    name: str  # of one share: shard, pages
    shares: Callable[[StepContext, Runtime], int]
    work: Callable[[StepContext, Runtime, int], None]


def asset_made_together(
    key: dg.AssetKey,
    deps: Sequence[dg.AssetKey],
    stages: Sequence[Stage],
    together: Callable[..., Results],
    **about: Any,
) -> dg.AssetsDefinition:
    """The asset ``key``, made by ``stages`` one after the other and by ``together``, which yields its materialization.

    ``about`` is what ``dagster.asset`` takes to describe it. Nothing yielded: nothing is materialized, and what follows
    is skipped.
    """
    name = "__".join(key.path)
    after = {"__".join(dep.path): dep for dep in deps}
    steps = [
        (
            _sharing_step(f"{name}_in_{stage.name}s", stage, list(after) if at == 0 else ["done"]),
            _share_step(f"{name}_{stage.name}", stage),
        )
        for at, stage in enumerate(stages)
    ]
    last = _last_step(f"{name}_together", together)

    def compose(**dependencies: Any) -> Any:
        done: Any = None
        for at, (sharing, share) in enumerate(steps):
            shares = sharing(**dependencies) if at == 0 else sharing(done=done)
            done = shares.map(share).collect()
        return last(done=done)

    made: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.graph_asset(
        key=key,
        ins={name: dg.AssetIn(key=dep, dagster_type=dg.Nothing) for name, dep in after.items()},
        **about,
    )
    return made(_taking(compose, list(after)))


def _taking(compose: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    # Dagster binds a graph's inputs by the names of the function's parameters.
    def composed(**dependencies: Any) -> Any:
        return compose(**dependencies)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    composed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return composed


def _sharing_step(name: str, stage: Stage, after: Sequence[str]) -> dg.OpDefinition:
    @dg.op(name=name, ins={one: dg.In(dg.Nothing) for one in after}, out=dg.DynamicOut(dg.Nothing))
    def share_out(
        context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.DynamicOutput[None]]:
        for share in range(stage.shares(context, runtime)):
            yield dg.DynamicOutput(None, mapping_key=str(share))

    return share_out


def _share_step(name: str, stage: Stage) -> dg.OpDefinition:
    @dg.op(name=name, ins={"share": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def do_share(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> None:
        stage.work(context, runtime, int(context.get_mapping_key() or 0))

    return do_share


def _last_step(name: str, together: Callable[..., Results]) -> dg.OpDefinition:
    @dg.op(name=name, ins={"done": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing, is_required=False))
    def put_together(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.Output[None]]:
        for result in together(context, runtime):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)  # an output's data version
                made = dg.Output(None, metadata=result.metadata or {}, data_version=result.data_version)
            yield made

    return put_together
