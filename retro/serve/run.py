"""Listen, serve, and shut down: nothing new is accepted, everything accepted is finished."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import SecretStr

from retro.common.errors import ConfigError
from retro.common.optional import import_optional
from retro.serve.config import KEY_VARIABLE, ServeConfig

if TYPE_CHECKING:
    import uvicorn

    from retro.serve.served import Served

log = logging.getLogger(__name__)

_SECONDS_TO_CLOSE = 10
"""How long connections may take to close after the last answer."""
_POLL_SECONDS = 0.05


def require_packages() -> None:
    """Check that the server's packages are installed.

    Raises:
        DependencyError: One is not; the extra that installs it is named.
    """
    for module, package in (("fastapi", "fastapi"), ("uvicorn", "uvicorn"), ("prometheus_client", "prometheus-client")):
        import_optional(module, extra="serve", use="is a part of the server", package=package)


def with_key(config: ServeConfig) -> ServeConfig:
    """The settings with the API key of the environment, where they have none.

    Raises:
        ConfigError: Other machines could connect without a key; or the variable holds no valid key.
    """
    found = os.environ.get(KEY_VARIABLE)
    if config.api_key is None and found:
        # Built again, because a copy would not be validated.
        config = type(config)(**(dict(config) | {"api_key": SecretStr(found)}))
    if config.api_key is None and not config.is_local and not config.open_to_all:
        need = f"needs an API key beside it (serve.api_key, or {KEY_VARIABLE}), or serve.open_to_all=true"
        raise ConfigError("serve.host", config.host, need)
    return config


def listen(config: ServeConfig) -> socket.socket:
    """A socket that listens on the configured address.

    Raises:
        ConfigError: The address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((config.host, config.port))
        found.listen(1024)
    except OSError as error:
        found.close()
        place = f"{config.host}:{config.port}"
        raise ConfigError("serve.port", place, f"needs an address that is free ({error.strerror})") from None
    return found


def serve(service: Served, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; return when everything that was accepted is finished."""
    service.work.start()
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    log.info("serving %s at http://%s:%d", service.name, host, address[1])
    try:
        asyncio.run(_serve(service, listener))
    finally:
        service.work.close()


async def _serve(service: Served, listener: socket.socket) -> None:
    server = _server(service)
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    def stop(number: int) -> None:
        if ending:
            log.warning("a second signal: ending at once")
            os._exit(128 + number)
        ending.append(loop.create_task(_finish(service, server)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await server.serve(sockets=[listener])


def _server(service: Served) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Leaves signals to `_serve`: uvicorn would stop at once, this server after the last answer."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(server_config(service))


def server_config(service: Served) -> uvicorn.Config:
    """uvicorn's settings: bounded connections, and the application."""
    import uvicorn

    from retro.serve.connection import bounded_connections

    return uvicorn.Config(
        service.app(),
        http=bounded_connections(service.config.arrival_seconds, service.config.max_connections),
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_CLOSE,
    )


async def _finish(service: Served, server: uvicorn.Server) -> None:
    """Accept nothing more, and let the server end after the last accepted answer."""
    work, grace = service.work, service.config.grace_seconds
    work.stop_accepting()
    service.body_timeouts.stop()
    log.info("stopping: %d accepted answers to finish, at most %g s", work.unfinished, grace)
    until = asyncio.get_running_loop().time() + grace
    while work.unfinished and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(_POLL_SECONDS)
    if left := work.unfinished:
        log.warning("%d answers were not finished in %g s; they end in an error", left, grace)
        work.end()
    else:
        log.info("every accepted answer is finished")
    server.should_exit = True
