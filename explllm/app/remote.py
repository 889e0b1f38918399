"""Pictures from http and https addresses, if the server allows them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from explllm.app.errors import RequestError

_SECONDS = 20


class _PublicOnly(AbstractResolver):
    """Resolves names to public addresses only: a client must not reach the server's own network."""

    def __init__(self) -> None:
        self.resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await self.resolver.resolve(host, port, family)
        if not all(ipaddress.ip_address(result["host"]).is_global for result in results):
            raise OSError("a private address")
        return results

    async def close(self) -> None:
        await self.resolver.close()


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


async def fetch(url: str, max_bytes: int) -> bytes:
    """Download a picture from a public address, without redirects.

    Raises:
        RequestError: If the picture cannot be downloaded or is too large, or its address is not public.
    """
    failed = RequestError(400, "The picture's address cannot be read.", "invalid_image")
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    connector: Any = aiohttp.TCPConnector(resolver=_PublicOnly())
    try:
        # The resolver is not called for numeric addresses.
        if _is_private(URL(url).host or ""):
            raise failed
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise failed
            content = await response.content.read(max_bytes + 1)
            while not response.content.at_eof() and len(content) <= max_bytes:
                content += await response.content.read(max_bytes + 1 - len(content))
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
        raise failed from error
    if len(content) > max_bytes:
        raise RequestError(400, f"The picture has more than {max_bytes:,} bytes.", "invalid_image")
    return content
