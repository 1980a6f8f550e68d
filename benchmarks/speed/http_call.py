"""Measures CPU per model call over loopback HTTP, against the openai SDK alone on the same connections.

    python -m benchmarks.speed.http_call [--out benchmarks/results/models.json]

The other side is a process that answers with the same bytes at once, so that its work is not counted and costs little. Both
ways take turns in one run, because the machine's mood changes; what travels is their ratio. The figures are kept under
`http_call` of the file; its other keys stay.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import orjson
from anyio.abc import SocketAttribute, SocketStream

from benchmarks.speed.timing import load_average, machine, merge
from runtime.models.base import ChatMessage, ChatRequest
from runtime.models.openai import OpenAIModel
from runtime.models.spec import ModelSpec
from runtime.models.wire import request_body

CALLS, ROUNDS, IN_FLIGHT = 400, 7, 16
PIECES = 50
TEXT = "A sentence of a reply as long as replies usually are. " * 20
USAGE = {"prompt_tokens": 700, "completion_tokens": 250, "total_tokens": 950}
ASK = ChatRequest(
    (ChatMessage("system", "You are careful. " * 40), ChatMessage("user", "How many companies? " * 100)),
    500,
    7,
    "report",
)
_PLAIN = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": USAGE,
}

Call = Callable[[], Awaitable[object]]


def _chunk(**more: Any) -> bytes:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": []}
    return b"data: " + orjson.dumps(head | more) + b"\n\n"


def _answer(kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _answers() -> tuple[bytes, bytes]:
    size = -(-len(TEXT) // PIECES)
    texts = [TEXT[start : start + size] for start in range(0, len(TEXT), size)]
    chunks = [_chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}]) for text in texts]
    chunks += [
        _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        _chunk(usage=USAGE),
        b"data: [DONE]\n\n",
    ]
    return _answer("application/json", orjson.dumps(_PLAIN)), _answer("text/event-stream", b"".join(chunks))


def serve(port: Connection) -> None:
    """Answer every request at once, in a process of its own."""
    plain, streamed = _answers()

    async def talk(stream: SocketStream) -> None:
        async with stream:
            buffer = b""
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        buffer += await stream.receive()
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    while len(buffer) < length:
                        buffer += await stream.receive()
                    wants, buffer = b'"stream":true' in buffer[:length], buffer[length:]
                    await stream.send(streamed if wants else plain)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def listen() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port.send(listener.extra(SocketAttribute.local_port))
        await listener.serve(talk)

    anyio.run(listen)


async def cpu_us(call: Call) -> float:
    """CPU microseconds of this process per call, some in flight at once."""

    async def some() -> None:
        for _ in range(CALLS // IN_FLIGHT):
            await call()

    began = time.process_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(some)
    return (time.process_time() - began) / (CALLS // IN_FLIGHT * IN_FLIGHT) * 1e6


async def compare(port: int, stream: bool) -> dict[str, Any]:
    """Both ways in turns: ours, and the SDK's own reading of the same answers."""
    spec = ModelSpec(endpoint=f"http://127.0.0.1:{port}/v1", model="m", key_env="", stream=stream)
    async with aclosing(OpenAIModel("m", spec)) as model:
        sdk = model._line().client  # the one place that may import the SDK has made it already
        body = request_body(ASK, spec)

        async def ours() -> object:
            return await model.complete(ASK)

        async def bare() -> object:
            answer = await sdk.chat.completions.create(**body)
            return [chunk async for chunk in answer] if stream else answer

        for warm_up in (bare, ours):
            await cpu_us(warm_up)
        rounds = [(await cpu_us(bare), await cpu_us(ours)) for _ in range(ROUNDS)]
    ratios = [mine / theirs for theirs, mine in rounds]
    columns = {
        "sdk_cpu_us": [theirs for theirs, _ in rounds],
        "ours_cpu_us": [mine for _, mine in rounds],
        "ratio": ratios,
    }
    return {
        name: {"median": round(statistics.median(v), 2), "min": round(min(v), 2), "max": round(max(v), 2)}
        for name, v in columns.items()
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and keep the figures with the command that made them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.http_call", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/models.json"))
    options = parser.parse_args(arguments)
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    load = load_average()
    server.start()
    try:
        port = here.recv()
        found: dict[str, Any] = {
            "command": "python -m benchmarks.speed.http_call",
            "what": f"client CPU microseconds per call over loopback HTTP, {IN_FLIGHT} in flight; a stream has {PIECES} pieces",
            "machine": machine(load),
            "rounds": ROUNDS,
            "calls_per_round": CALLS,
            "plain": anyio.run(compare, port, False),
            "streamed": anyio.run(compare, port, True),
        }
    finally:
        server.terminate()
        server.join()
    merge(options.out, "http_call", found)


if __name__ == "__main__":
    main(sys.argv[1:])
