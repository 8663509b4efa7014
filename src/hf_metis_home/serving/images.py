"""
Images of requests: downloaded only here, within limits, and passed on as data URLs.

An engine that got the URL would download it again, under its own rules, and might get a different image than the
router. The check is on the IP address that a host name resolves to, and the connection is made to that same address, so
that the name cannot resolve to another one in between.
"""

import asyncio
import base64
import io
import ipaddress
import re
import socket
import warnings

import httpx
from PIL import Image

from .errors import RequestError
from .settings import ServingSettings


FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}
DATA_URL = re.compile(r"data:image/(?:png|jpe?g|webp);base64,", re.ASCII | re.IGNORECASE)
MAX_REDIRECTS = 3
# IPv6 networks that relay to IPv4 addresses, which may be private.
RELAYS = [ipaddress.ip_network(net) for net in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]


class ImageReader:
    """
    Reads the images of a request and checks them.

    Args:
        settings ([`ServingSettings`]): Limits, and trusted hosts.
    """

    def __init__(self, settings: ServingSettings):
        self.settings = settings
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def read(self, images: list[dict]) -> int:
        """
        Replace the `url` of each image with a data URL.

        Args:
            images (`list[dict]`): `image_url` objects of a request, changed in place.

        Returns:
            `int`: Pixels of all images together.

        Raises:
            RequestError: a URL that is refused or cannot be read, data that is not an image, too large an image.
        """
        pixels = 0
        for number, image in enumerate(images):
            try:
                url, size = await asyncio.to_thread(_check, await self._bytes(image["url"]))
                pixels += size
                if pixels > self.settings.max_image_pixels:
                    raise ImageError("has too many pixels", 413)
            except ImageError as error:
                message = f"Image {number + 1} of the request {error}."
                raise RequestError(error.status, message, "messages", "invalid_image") from None
            image["url"] = url
        return pixels

    async def _bytes(self, url: str) -> bytes:
        if head := DATA_URL.match(url):
            if len(url) - head.end() > self.settings.max_image_bytes * 4 // 3 + 4:
                raise ImageError(f"has more than {self.settings.max_image_bytes} bytes", 413)
            try:
                return await asyncio.to_thread(base64.b64decode, url[head.end() :], validate=True)
            except ValueError:
                raise ImageError("is not valid base64") from None
        if not url[:8].lower().startswith(("http://", "https://")):
            raise ImageError("must be an http(s) URL, or a data URL of a PNG, JPEG or WEBP image in base64")
        try:
            async with asyncio.timeout(self.settings.image_timeout):
                # Not an httpx client, which would keep cookies and use proxies and passwords of the environment.
                async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
                    return await self._download(url, transport)
        except TimeoutError:
            raise ImageError(f"could not be downloaded within {self.settings.image_timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
            raise ImageError("could not be downloaded") from None

    async def _download(self, url: str, transport: httpx.AsyncHTTPTransport) -> bytes:
        """Follows redirects one at a time, because each leads to a new address to check."""
        address = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._request(address)
            response = await transport.handle_async_request(request)
            try:
                if response.has_redirect_location:
                    address = address.join(response.headers["location"])
                    continue
                if response.status_code != 200:
                    raise ImageError(f"could not be downloaded (HTTP {response.status_code})")
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise ImageError("was sent compressed, which is not supported")
                return await self._body(response)
            finally:
                await response.aclose()
        raise ImageError(f"was redirected more than {MAX_REDIRECTS} times")

    async def _request(self, address: httpx.URL) -> httpx.Request:
        """A request to the IP address that the host resolves to now, with the host's name in its headers."""
        if address.scheme not in ("http", "https") or not address.host:
            raise ImageError("redirects to something other than an http(s) URL")
        if address.userinfo:
            raise ImageError("has a user name in its URL")
        host, port = address.raw_host.decode("ascii"), address.port or {"http": 80, "https": 443}[address.scheme]
        found = await resolve(host.strip("[]"), port)
        if address.host not in self.settings.image_hosts and not all(is_public(each) for each in found):
            raise ImageError("is at an address that is not public, from which this server does not download")
        headers = {"Host": address.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"}
        target = address.copy_with(host=found[0])
        # TLS checks the name, not the IP address.
        return httpx.Request("GET", target, headers=headers, extensions={"sni_hostname": host})

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self.settings.max_image_bytes:
                raise ImageError(f"has more than {self.settings.max_image_bytes} bytes", 413)
        return bytes(body)


class ImageError(Exception):
    """What is wrong with an image, as the end of a sentence, and the HTTP status of the answer."""

    def __init__(self, problem: str, status: int = 400):
        super().__init__(problem)
        self.status = status


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an IP address, in any notation, belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # an address with a zone, so link-local
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast and not any(ip in relay for relay in RELAYS)


def _check(data: bytes) -> tuple[str, int]:
    """A data URL and the number of pixels. Reads only the image's header and decodes nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images: the caller checks the pixels
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
                kind, pixels = FORMATS[image.format], image.width * image.height
    except Image.DecompressionBombError:
        raise ImageError("has too many pixels", 413) from None
    except Exception:  # noqa: BLE001  decoders raise anything on bytes that are not an image
        raise ImageError("is not a readable PNG, JPEG or WEBP image") from None
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", pixels
