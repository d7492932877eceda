"""OpenTelemetry for a collector outside AWS, an optional extra: traces of runs, metrics and log lines over OTLP/HTTP.

On if OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise nothing is imported. The SDK reads OpenTelemetry's other variables
itself. CloudWatch's lines are written either way. Attributes are names, figures and the allow-listed fields of the log,
never personal data.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from classfeed_dagster.errors import UnavailableError
from classfeed_dagster.extras import require_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from classfeed_dagster.settings import Settings

_SCOPE = "classfeed"
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_SEVERITY = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}


class CollectorError(UnavailableError):
    """The OpenTelemetry collector does not accept spans. They are sent again at the next attempt."""


@dataclass(frozen=True, slots=True)
class Span:
    """Finished run or step. ``started`` and ``ended`` are seconds since 1970, UTC."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    started: float
    ended: float
    failed: bool
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Collector:
    resource: Any
    spans: Any
    meter: Any
    logger: Any
    providers: tuple[Any, ...]
    instruments: dict[str, Any] = field(default_factory=dict)


_started: list[_Collector] = []  # at most one a process


def start(settings: Settings) -> None:
    """Start sending metrics and log lines if the settings name a collector. MissingExtraError without the extra."""
    if settings.otlp_endpoint is None or _started:
        return
    require_extra("OTEL_EXPORTER_OTLP_ENDPOINT", "opentelemetry", "opentelemetry")
    _started.append(_connect(settings))
    import structlog  # the templates are generated without it

    *processors, render = structlog.get_config()["processors"]
    structlog.configure(processors=[*processors, _send_line, render])


def stop() -> None:
    """Send what remains and end the exporters' threads, for a process that goes on, such as a test session's."""
    while _started:
        for provider in _started.pop().providers:
            provider.shutdown()


def _connect(settings: Settings) -> _Collector:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create(
        {
            "service.name": _SCOPE,
            "service.version": settings.code_version,
            "deployment.environment.name": settings.env.value,
        }
    )
    # Both send the remaining data when the process ends.
    metrics = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
    logs = LoggerProvider(resource)
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    return _Collector(resource, OTLPSpanExporter(), metrics.get_meter(_SCOPE), logs.get_logger(_SCOPE), (metrics, logs))


def measure(
    name: str, value: float, attributes: Mapping[str, str], *, unit: str, description: str, added_up: bool
) -> None:
    """Record one measurement; nothing if no collector is named. ``unit`` is UCUM's, ``added_up`` makes it a counter."""
    for collector in _started:
        instrument = collector.instruments.get(name)
        if instrument is None:
            create = collector.meter.create_counter if added_up else collector.meter.create_gauge
            instrument = collector.instruments[name] = create(f"{_SCOPE}.{name}", unit, description)
        (instrument.add if added_up else instrument.set)(value, attributes)


def send_spans(spans: Sequence[Span]) -> None:
    """Send spans at once. CollectorError if the collector does not accept them; nothing if none is named."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    for collector in _started:
        if collector.spans.export([_readable(span, collector.resource) for span in spans]) != SpanExportResult.SUCCESS:
            raise CollectorError(
                f"The OpenTelemetry collector did not accept {len(spans)} spans: check OTEL_EXPORTER_OTLP_ENDPOINT"
            )


def trace_id(correlation_id: str) -> str:
    """Return the trace of a correlation id: the id itself, 32 hexadecimal digits, or a digest of any other."""
    if _TRACE_ID.fullmatch(correlation_id):
        return correlation_id
    return hashlib.sha256(correlation_id.encode()).hexdigest()[:32]


def span_id(run_id: str, step: str = "") -> str:
    """Return the span of a run, or of one of its steps. Repeated calls return equal spans."""
    return hashlib.sha256(f"{run_id}/{step}".encode()).hexdigest()[:16]


def _context(trace: str, span: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _readable(span: Span, resource: Any) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Status, StatusCode

    return ReadableSpan(
        span.name,
        context=_context(span.trace_id, span.span_id),
        parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
        resource=resource,
        attributes=span.attributes,
        status=Status(StatusCode.ERROR if span.failed else StatusCode.OK),
        start_time=int(span.started * 1e9),
        end_time=int(span.ended * 1e9),
        instrumentation_scope=InstrumentationScope(_SCOPE),
    )


def _send_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Send a log line with its fields, in the trace of its correlation id (a structlog processor)."""
    from opentelemetry._logs import SeverityNumber
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    context = None
    if "correlation_id" in event:
        ids = trace_id(str(event["correlation_id"])), span_id(str(event.get("run_id", "")))
        context = set_span_in_context(NonRecordingSpan(_context(*ids)))
    level = str(event.get("level", "info"))
    for collector in _started:
        collector.logger.emit(
            timestamp=int(dt.datetime.now(dt.UTC).timestamp() * 1e9),
            context=context,
            severity_number=SeverityNumber(_SEVERITY.get(level, _SEVERITY["info"])),
            severity_text=level,
            body=str(event.get("event", "")),
            attributes={
                name: value if isinstance(value, bool | int | float) else str(value)
                for name, value in event.items()
                if name not in ("event", "level", "timestamp")
            },
        )
    return event
