"""Images are read once, under limits, and from nowhere but the open internet."""

import asyncio
import base64
import struct
import zlib
from urllib.parse import urlsplit

import pytest

from hf_metis_home.serving import ServingSettings, images
from hf_metis_home.serving.errors import RequestError
from hf_metis_home.serving.images import ImageReader, is_public

from .common import app_of, ask, chat, data_url, image_part, picture, served


def read(*urls, **settings) -> tuple[list[str], int]:
    """What becomes of addresses, and the pixels of all."""

    async def run():
        reader = ImageReader(ServingSettings(router="", **settings))
        parts = [{"url": url} for url in urls]
        return await reader.read(parts), parts

    pixels, parts = asyncio.run(run())
    return [part["url"] for part in parts], pixels


def refused(*urls, **settings) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(*urls, **settings)
    assert caught.value.code == "invalid_image" and caught.value.param == "messages"
    return caught.value


class Site:
    """An ASGI application with pictures, and with what should not be fetched."""

    def __init__(self):
        self.asked, self.big_sent = [], 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        path = scope["path"]
        self.asked.append((path, dict(scope["headers"])))
        status, headers, body = 200, [(b"set-cookie", b"a=b; path=/")], picture("teal", "JPEG")
        if path.startswith("/to/"):
            status, body = 302, b""
            headers = [(b"location", path.removeprefix("/to/").encode())]
        elif path == "/loop":
            status, headers = 307, [(b"location", b"/loop")]
        elif path == "/packed":
            headers = [(b"content-encoding", b"gzip")]
        elif path == "/missing":
            status = 404
        elif path == "/text":
            body = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path == "/slow":
            await asyncio.sleep(1)
        while path == "/big" and self.big_sent < 100:
            self.big_sent += 1
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def site():
    site = Site()
    with served(site) as url:
        site.url, site.port = url, urlsplit(url).port
        yield site


TRUSTED = {"image_hosts": ["127.0.0.1"]}


def test_data_urls():
    png, webp = picture(), picture(kind="WEBP", size=(8, 5))
    found, pixels = read(data_url(png), data_url(webp, "webp"), "DATA:image/JPG;base64," + data_url(png)[22:])
    assert [url[:16] for url in found] == ["data:image/png;b", "data:image/webp;", "data:image/png;b"]
    assert base64.b64decode(found[0].split(",")[1]) == png and pixels == 2 * 56 * 56 + 8 * 5


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd", "file:///etc/passwd", "ftp://example.com/a.png", "gopher://example.com", "", " ", "data:,",
        "javascript:alert(1)", "data:image/svg+xml;base64,PHN2Zy8+", "data:text/html;base64,AAAA", "a.png",
        "data:image/png,abc", "data:image/png;base64,***", data_url(b""), data_url(b"GIF89a" + b"\0" * 20),
        data_url(b"<svg/>"), data_url(picture()[:40]), "http:/127.0.0.1/a", "http:///a", "https://",
        "iVBORw0KGgo=", "data:image/png;base64," + "A" * 7, "http://[::1", "http://a b/c", "http://\ud800/",
    ],
)  # fmt: skip
def test_what_is_no_image(url):
    assert refused(url).status == 400


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "0.0.0.0", "0", "127.1", "2130706433", "0x7f000001", "017700000001", "[::1]", "[::]",
        "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "[fe80::1]", "[fc00::1]", "100.64.0.1", "192.0.2.1", "224.0.0.1", "[ff02::1]", "255.255.255.255",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "user@127.0.0.1", "127.0.0.1.", "①②⑦.0.0.1",
    ],
)  # fmt: skip
def test_private_addresses(site, host):
    before = len(site.asked)
    assert refused(f"http://{host}:{site.port}/a.jpg").status == 400
    assert len(site.asked) == before


def test_addresses_that_are_public():
    assert all(map(is_public, ("93.184.216.34", "2606:2800:220:1::1", "8.8.8.8")))
    assert not any(map(is_public, ("fe80::1%eth0", "", "localhost", "::ffff:192.168.0.1", "198.18.0.1")))
    relays = ("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:1::1", "::127.0.0.1", "::ffff:7f00:1")
    assert not any(map(is_public, relays))


def test_a_name_with_a_private_address_among_others(monkeypatch, site):
    async def resolve(host, port):
        return {"good.test": ["8.8.8.8", "127.0.0.1"]}[host]

    monkeypatch.setattr(images, "resolve", resolve)
    before = len(site.asked)
    assert "not public" in refused(f"http://good.test:{site.port}/a.jpg").message
    assert len(site.asked) == before


def test_the_address_that_was_looked_at_is_connected_to(monkeypatch, site):
    """A name that resolves to another address a moment later changes nothing; and the site is asked by its name."""
    looked = []

    async def resolve(host, port):
        looked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(images, "resolve", resolve)
    monkeypatch.setattr(images, "is_public", lambda address: address == "127.0.0.1")
    [url], pixels = read(f"http://nowhere.invalid:{site.port}/a.jpg")
    assert url.startswith("data:image/jpeg;base64,") and pixels == 56 * 56 and looked == ["nowhere.invalid"]
    assert site.asked[-1][1][b"host"] == f"nowhere.invalid:{site.port}".encode()


def test_downloads(site):
    [url], _ = read(f"{site.url}/a.jpg", **TRUSTED)
    assert base64.b64decode(url.split(",")[1]) == picture("teal", "JPEG")
    [url], _ = read(f"{site.url}/to//to//a.jpg", **TRUSTED)  # redirects, followed
    assert url.startswith("data:image/jpeg")
    assert all(b"cookie" not in headers and b"authorization" not in headers for _, headers in site.asked)


def test_redirects_to_what_is_refused(site):
    for target in (f"http://127.0.0.2:{site.port}/a.jpg", f"http://localhost:{site.port}/a.jpg", "file:///etc/passwd"):
        before = len(site.asked)
        refused(f"{site.url}/to/{target}", **TRUSTED)
        assert len(site.asked) == before + 1, target
    assert "redirected more than" in refused(f"{site.url}/loop", **TRUSTED).message


def test_limits_of_downloads(site):
    assert "more than 100000 bytes" in refused(f"{site.url}/big", max_image_bytes=100_000, **TRUSTED).message
    assert site.big_sent < 100  # broken off
    assert "within 0.2 s" in refused(f"{site.url}/slow", image_timeout=0.2, **TRUSTED).message
    assert "compressed" in refused(f"{site.url}/packed", **TRUSTED).message
    assert "HTTP 404" in refused(f"{site.url}/missing", **TRUSTED).message
    assert "PNG, JPEG or WEBP" in refused(f"{site.url}/text", **TRUSTED).message
    assert "could not be downloaded" in refused("http://127.0.0.1:9/", **TRUSTED).message


def bomb(width=60_000, height=60_000) -> bytes:
    """A small file whose pixels take gigabytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_limits_of_size():
    for side in (7_000, 12_000, 60_000):
        assert refused(data_url(bomb(side, side))).status == 413
    assert "more than 100 bytes" in refused(data_url(picture(size=(300, 300))), max_image_bytes=100).message
    small = data_url(picture(size=(10, 10)))
    assert read(small, small, max_image_pixels=200)[1] == 200
    assert "Image 2 of the request has too many pixels" in refused(small, small, max_image_pixels=199).message


def test_the_engine_gets_no_address(router_folder, site):
    """Whatever branch is asked for, and whoever chose it: it gets the bytes that the router read."""
    app = app_of(router_folder, **TRUSTED)
    for model in ("auto", "thinking", "non_thinking"):
        reply = ask(app, chat(image_part(f"{site.url}/a.jpg"), "read", model=model))
        assert reply.status_code == 200
        [part, _] = app.app.bodies[-1]["messages"][0]["content"]
        assert part == image_part(data_url(picture("teal", "JPEG"), "jpeg"))
        for url in ("file:///etc/passwd", f"http://localhost:{site.port}/a.jpg", data_url(bomb())):
            assert ask(app, chat(image_part(url), model=model)).json()["error"]["code"] == "invalid_image"
    assert len(app.app.bodies) == 3
    app.router.stop()
