"""
Metrics for Prometheus and spans for OpenTelemetry: what is answered, what is owed, and
what becomes of that.

Put a `Watch` around a paywall where it is wanted (`agentpay-sdk[metrics]`); nothing
else knows of it. Metrics are for looking at: money itself stays in the books.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, get_tracer
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agentpay.errors import AgentPayError, MalformedMessage
from agentpay.http.asgi import App, Message, Receive, Scope, Send, send_whole
from agentpay.payee.offers import NO_PAYMENT
from agentpay.payee.payee import Payee
from agentpay.payee.watched import Watched
from agentpay.wire.headers import decode_json
from agentpay.wire.mpp.problem import PROBLEM_JSON, read_problem
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE

_CODE: Final = re.compile(r"[a-z0-9_-]{1,64}")
_BODY_MAX: Final = 16_384
_UNPAID: Final = "payment-required"


@dataclass(slots=True)
class _Answer:
    """What is seen of one answer as it leaves."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    def see(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }
        elif self._is_problem and len(self.body) < _BODY_MAX:
            self.body += message.get("body", b"")

    @property
    def _is_problem(self) -> bool:
        return self.headers.get("content-type") == PROBLEM_JSON

    def judge(self) -> tuple[str, str]:
        """What became of a request, and the code of what was wrong."""
        receipt = _said(self.headers.get(PAYMENT_RESPONSE.lower()))
        if receipt.get("success") or PAYMENT_RECEIPT.lower() in self.headers:
            return "paid", ""
        code = self._code(receipt)
        if code == _UNPAID:
            return "asked", ""
        if not code:
            return "free", ""
        return ("refused" if self.status in (402, 412) else "failed"), code

    def _code(self, receipt: dict[str, Any]) -> str:
        """One of few, so that nobody outside can make metrics of their own."""
        if receipt:
            return _short(receipt.get("errorReason"))
        if self._is_problem and (problem := read_problem(self.body)) is not None:
            return _short(problem.type.rpartition("/")[2])
        required = _said(self.headers.get(PAYMENT_REQUIRED.lower()))
        if not required:
            return ""
        unpaid = required.get("error") == NO_PAYMENT
        return _UNPAID if unpaid else _short(required.get("error"))


def _said(header: str | None) -> dict[str, Any]:
    if header is None:
        return {}
    try:
        return decode_json(header, name="a header of ours")
    except MalformedMessage:
        return {}


def _short(words: object) -> str:
    code = str(words).partition(":")[0]
    return code if _CODE.fullmatch(code) else "other"


class _Beside(Collector):
    """What a payee counts beside its requests, read when it is asked for."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        steps = CounterMetricFamily(
            "agentpay_keeper_steps",
            "Rounds, claims, settlements and refunds, by code of what went wrong.",
            labels=("step", "code"),
        )
        for labels, count in self._watched.steps.items():
            steps.add_metric(labels, count)
        rpc = CounterMetricFamily(
            "agentpay_rpc_failures",
            "Requests that an endpoint gave no answer to, by code.",
            labels=("endpoint", "code"),
        )
        for labels, count in self._watched.rpc_failures.items():
            rpc.add_metric(labels, count)
        yield from (steps, rpc)
        yield GaugeMetricFamily(
            "agentpay_synced_timestamp_seconds",
            "When the keeper last saw the chain.",
            value=self._watched.synced_at,
        )


class Watch:
    """
    An application behind a paywall, watched: one span and one count per request, and
    per step that turns what is owed into money.
    """

    def __init__(
        self,
        app: App,
        *,
        payee: Payee,
        registry: CollectorRegistry | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """
        `registry` is a fresh one if not given, and `tracer` that of the program, which
        does nothing unless the program has set up OpenTelemetry.
        """
        self._app = app
        self._payee = payee
        self.registry = registry or CollectorRegistry()
        self._tracer = tracer or get_tracer("agentpay")
        self._answers = Counter(
            "agentpay_answers",
            "Requests by what became of their payment, and by code.",
            ("outcome", "code"),
            registry=self.registry,
        )
        self._exposure = self._gauge("exposure_units", "Earned and not here yet.")
        self._unclaimed = self._gauge("unclaimed_units", "Of it on channels.")
        self._channels = self._gauge("unclaimed_channels", "How many these are.")
        self._oldest = self._gauge("unclaimed_oldest_seconds", "Its first voucher.")
        self._gas = self._gauge("gas_wei", "What our own account has for gas.")
        self._unread = Counter(
            "agentpay_unread",
            "Figures that could not be read, by code.",
            ("code",),
            registry=self.registry,
        )
        self.registry.register(_Beside(payee.watched))
        payee.watched.span = self._step

    @contextmanager
    def _step(self, name: str, count: int) -> Generator[None]:
        with self._tracer.start_as_current_span(
            f"agentpay.{name}",
            kind=SpanKind.INTERNAL,
            attributes={"agentpay.count": count},
        ) as span:
            try:
                yield
            except AgentPayError as error:
                span.set_attribute("agentpay.code", error.code)
                raise

    def _gauge(self, name: str, about: str) -> Gauge:
        gauge = Gauge(f"agentpay_{name}", about, registry=self.registry)
        gauge.set(float("nan"))  # not known, and not nothing
        return gauge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer()

        async def watched(message: Message) -> None:
            answer.see(message)
            await send(message)

        with self._tracer.start_as_current_span(
            "agentpay.request",
            kind=SpanKind.INTERNAL,
            attributes={"http.request.method": scope["method"]},
        ) as span:
            await self._app(scope, receive, watched)
            outcome, code = answer.judge()
            self._answers.labels(outcome, code).inc()
            span.set_attribute("http.response.status_code", answer.status)
            span.set_attribute("agentpay.outcome", outcome)
            if code:
                span.set_attribute("agentpay.code", code)
            if outcome == "failed":
                span.set_status(Status(StatusCode.ERROR, code))

    async def expose(self) -> bytes:
        """All metrics as Prometheus reads them; what is owed is read for it now."""
        try:
            figures = await self._payee.figures()
        except AgentPayError as error:
            self._unread.labels(error.code).inc()
        else:
            self._exposure.set(figures.exposure)
            self._unclaimed.set(figures.unclaimed)
            self._channels.set(figures.channels)
            self._oldest.set(figures.oldest_seconds)
            if figures.gas_wei is not None:
                self._gas.set(figures.gas_wei)
        return generate_latest(self.registry)

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application of `expose`: put it where only the operator reads it."""
        del scope, receive
        body = await self.expose()
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        headers.append((b"content-length", str(len(body)).encode()))
        await send_whole(send, 200, headers, body)
