"""Fan-out of an asset within a run: dynamic steps compute its parts on several workers, and a last step merges them.

A stage has two steps: one returns the number of parts, the other computes one part. Without parts, the last step does
all the work, as on ordinary days. Steps pass each other no data; their results are in the object store, which is all
that workers share.
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
    """Work that can be fanned out: ``shares`` returns the number of parts, ``work`` computes one (from 0)."""

    name: str  # of one part: shard, pages
    shares: Callable[[StepContext, Runtime], int]
    work: Callable[[StepContext, Runtime, int], None]


def fanned_out_asset(
    key: dg.AssetKey,
    deps: Sequence[dg.AssetKey],
    stages: Sequence[Stage],
    together: Callable[..., Results],
    **attributes: Any,
) -> dg.AssetsDefinition:
    """Return the asset ``key``, computed by ``stages`` in order and by ``together``, which yields its materialization.

    ``attributes`` are passed to ``dagster.graph_asset``. If ``together`` yields nothing, nothing is materialized and
    the downstream assets are skipped.
    """
    name = "__".join(key.path)
    after = {"__".join(dep.path): dep for dep in deps}
    steps = [
        (
            _count_step(f"{name}_in_{stage.name}s", stage, list(after) if at == 0 else ["done"]),
            _part_step(f"{name}_{stage.name}", stage),
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

    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.graph_asset(
        key=key,
        ins={name: dg.AssetIn(key=dep, dagster_type=dg.Nothing) for name, dep in after.items()},
        **attributes,
    )
    return decorate(_with_parameters(compose, list(after)))


def _with_parameters(compose: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    # Dagster binds a graph's inputs by the names of the function's parameters.
    def composed(**dependencies: Any) -> Any:
        return compose(**dependencies)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    composed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return composed


def _count_step(name: str, stage: Stage, after: Sequence[str]) -> dg.OpDefinition:
    @dg.op(name=name, ins={dep: dg.In(dg.Nothing) for dep in after}, out=dg.DynamicOut(dg.Nothing))
    def count_parts(
        context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]
    ) -> Iterator[dg.DynamicOutput[None]]:
        for share in range(stage.shares(context, runtime)):
            yield dg.DynamicOutput(None, mapping_key=str(share))

    return count_parts


def _part_step(name: str, stage: Stage) -> dg.OpDefinition:
    @dg.op(name=name, ins={"share": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def compute_part(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> None:
        stage.work(context, runtime, int(context.get_mapping_key() or 0))

    return compute_part


def _last_step(name: str, together: Callable[..., Results]) -> dg.OpDefinition:
    @dg.op(name=name, ins={"done": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing, is_required=False))
    def merge_parts(context: dg.OpExecutionContext, runtime: dg.ResourceParam[Runtime]) -> Iterator[dg.Output[None]]:
        for result in together(context, runtime):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)  # an output's data version
                output = dg.Output(None, metadata=result.metadata or {}, data_version=result.data_version)
            yield output

    return merge_parts
