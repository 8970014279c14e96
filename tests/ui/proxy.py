"""A reverse proxy that shows a server below a path, as nginx's `location /chat/ { proxy_pass …/; }` does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


@contextmanager
def below(path: str, url: str) -> Iterator[str]:
    """Show the server at `url` below a path; the address of it."""
    loop = asyncio.new_event_loop()
    ready, end = threading.Event(), asyncio.Event()
    port = 0

    async def main() -> None:
        nonlocal port
        async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)) as session:

            async def passed_on(request: web.Request) -> web.StreamResponse:
                headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
                headers |= {"X-Forwarded-Prefix": path, "X-Forwarded-Host": request.host, "X-Forwarded-Proto": "http"}
                target = url + request.raw_path.removeprefix(path)
                body = await request.read()
                async with session.request(
                    request.method, target, headers=headers, data=body, allow_redirects=False
                ) as answer:
                    kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP]
                    response = web.StreamResponse(status=answer.status)
                    for name, value in kept:
                        response.headers.add(name, value)
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                    return response

            app = web.Application(client_max_size=1 << 25)
            app.router.add_route("*", path + "/{rest:.*}", passed_on)
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            ready.set()
            await end.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{port}{path}"
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
