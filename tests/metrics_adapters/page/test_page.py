"""The page on a real server: nothing but 401 without the token, a login, and headers that protect it."""

from __future__ import annotations

import gzip
import re
import socket
from base64 import b64encode
from contextlib import contextmanager
from hashlib import sha256
from http.cookies import SimpleCookie

import httpx
import pytest

pytest.importorskip("uvicorn")
from fastapi import FastAPI

from metrics_adapters.asgi import make_app, serve_app
from metrics_adapters.page.files import page_document, page_files
from metrics_adapters.page.vega import ChartLibrary
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS
from tests.metrics_adapters.http.serving import served

pytestmark = pytest.mark.heavy

TOKEN = "s3cret-token"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
URLS = (
    *("/", "/login", "/logout", "/history", "/history/compare", "/metrics", "/snapshot", "/health"),
    *("/stream", "/stream?dashboard=overview", "/assets/vega.js", "/assets/page.css", "/assets/login.html"),
    *("/other", "/assets/", "/assets/none.js", "/login/", "/.well-known/security.txt"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
POLICY = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "connect-src": ["'self'"],
    "form-action": ["'self'"],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
}


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """Use a small chart library that is not kept on the disk."""
    library = ChartLibrary(lambda: b"window.vega={}", lambda: None)
    monkeypatch.setattr("metrics_adapters.http.page.chart_library", lambda: library)


@contextmanager
def browsing(url, **options):
    """Yield a client that keeps cookies like a browser."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, **options) as client:
        yield client


@pytest.fixture
def browser(system):
    """Return a browser of a page that requires a token."""
    with serve_app(system, 0, bearer_token=TOKEN) as server, browsing(server.url) as client:
        yield client


def log_in(browser, token=TOKEN, path="login", **headers):
    """Send the login form."""
    return browser.post(path, data={"token": token}, headers=headers)


def policy_of(response):
    """Return the content security policy of a response."""
    directives = (part.split() for part in response.headers["content-security-policy"].split(";"))
    return {name: sources for name, *sources in directives}


def raw(url, target, *headers):
    """Return the status of a request for a target that no HTTP client would send unchanged."""
    host, _, port = url.removeprefix("http://").partition(":")
    lines = [f"GET {target} HTTP/1.1", "Host: service", "Connection: close", *headers, "", ""]
    with socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as sock:
        sock.sendall("\r\n".join(lines).encode("latin-1"))
        received = b""
        while data := sock.recv(65536):
            received += data
    return int(received.split(b" ")[1]), received


# -- without the token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [HTML, {}])
def test_nothing_is_readable_without_the_token(browser, accept):
    """Every URL and method has status 401, and only the document has a body worth reading."""
    for url in URLS:
        for method in METHODS:
            if (method, url) == ("POST", "/login"):
                continue  # it has credentials of its own
            response = browser.request(method, url, headers=accept)
            assert response.status_code == 401, (method, url)
            assert response.headers["www-authenticate"] == 'Bearer realm="metrics"'
            is_form = bool(accept) and httpx.URL(browser.base_url).join(url).path == "/" and url == "/"
            assert ("<form" in response.text) == (is_form and method != "HEAD"), (method, url)
            assert response.headers["cache-control"] == "no-store"
    for origin in ({}, {"origin": "https://other.example"}):
        ask = {"access-control-request-method": "GET", **origin}
        assert browser.options("/stream", headers=ask).status_code == 401


def test_the_login_form_needs_no_other_response(browser):
    """Its style is in it, and its policy allows exactly this style; its script, too, is none."""
    response = browser.get("/", headers=HTML)
    styles = re.findall(r"<style>(.*?)</style>", response.text, re.DOTALL)
    assert styles
    assert 'rel="stylesheet"' not in response.text
    assert "<script" not in response.text
    hashes = [f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in styles]
    assert policy_of(response) == {**POLICY, "style-src": ["'self'", *hashes]}
    assert '<form method="post" action="login">' in response.text
    assert "<!--" not in response.text


def test_the_documents_are_what_the_server_expects():
    """It fills in an error and the folder of the login, and nothing in them is inline."""
    login = page_files()["login.html"].content.decode()
    assert len(re.findall(r"<!--\s*error\s*-->", login)) == login.count('action="login"') == 1
    assert '<link rel="stylesheet" href="assets/page.css">' in login
    for name in ("index.html", "login.html"):
        document = page_files()[name].content.decode()
        assert not re.search(r"<script(?![^>]*\ssrc=)|\son[a-z]+=|\sstyle=|https?://|=\"/", document), name


def test_without_a_token_there_is_no_login(system):
    """The page is open, and nothing accepts a form."""
    with serve_app(system, 0) as server, browsing(server.url) as browser:
        assert browser.get("/").status_code == 200
        assert log_in(browser).status_code == 405
        assert browser.get("/login").status_code == 404


def test_basic_authentication_keeps_its_dialog(system):
    """The page asks for both; a failed login asks for the token only, without a dialog."""
    with (
        serve_app(system, 0, bearer_token=TOKEN, basic_auth=("user", "password")) as server,
        browsing(server.url) as browser,
    ):
        asked = browser.get("/", headers=HTML)
        assert asked.headers.get_list("www-authenticate") == [
            'Bearer realm="metrics"',
            'Basic realm="metrics"',
        ]
        assert log_in(browser, "wrong").headers.get_list("www-authenticate") == ['Bearer realm="metrics"']
        assert browser.get("/", auth=("user", "password")).status_code == 200
    with serve_app(system, 0, basic_auth=("user", "password")) as server, browsing(server.url) as browser:
        assert "<form" not in browser.get("/", headers=HTML).text
        assert log_in(browser).status_code == 401


# -- login -------------------------------------------------------------------------------------------------


def test_a_login_opens_the_page(browser, caplog):
    """With a session that scripts and other sites cannot use, until the logout. The token is nowhere."""
    caplog.set_level("DEBUG")
    done = log_in(browser)
    assert (done.status_code, done.headers["location"]) == (303, "./")
    ((name, cookie),) = SimpleCookie(done.headers["set-cookie"]).items()
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert int(cookie["max-age"]) == 12 * 3600
    assert not cookie["domain"]
    assert not cookie["secure"]
    assert not cookie["path"]  # that of the login
    for url in ("/", "/metrics", "/snapshot", "/health", "/assets/page.css"):
        response = browser.get(url)
        assert response.status_code in (200, 503), url
        assert TOKEN not in f"{response.text}{response.headers}{response.url}"
    with browser.stream("GET", "/stream") as stream:
        assert stream.status_code == 200
    assert browser.get("/login").status_code == 405
    left = browser.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "./")
    assert left.headers["set-cookie"].startswith(f"{name}=; Max-Age=0;")
    assert browser.get("/", headers=HTML).status_code == 401
    assert TOKEN not in caplog.text
    assert TOKEN not in str(done.headers)


def test_a_session_may_be_one_of_several_cookie_headers(browser):
    """As HTTP/2 sends them, and a proxy passes them on."""
    session = log_in(browser).headers["set-cookie"].partition(";")[0]
    cookies = [f"Cookie: {each}" for each in ("theme=dark", session, "other=1")]
    assert raw(str(browser.base_url).rstrip("/"), "/assets/page.css", *cookies)[0] == 200
    assert raw(str(browser.base_url).rstrip("/"), "/assets/page.css", *cookies[::2])[0] == 401


def test_a_cookie_is_secure_over_https(system):
    """A TLS proxy states the scheme."""
    with (
        serve_app(system, 0, bearer_token=TOKEN) as server,
        browsing(server.url, headers={"x-forwarded-proto": "https"}) as browser,
    ):
        assert log_in(browser).headers["set-cookie"].endswith("; SameSite=Strict; Secure")


def test_a_wrong_token_is_told(browser):
    """The form shows an error, and the right token logs in after any number of wrong ones."""
    for _ in range(20):
        refused = log_in(browser, "<guess>")
        assert refused.status_code == 401
        assert "This is not the token of the service." in refused.text
        assert "guess" not in refused.text
        assert "set-cookie" not in refused.headers
    assert log_in(browser).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://other.example"},
        {"origin": "null"},
    ],
)
def test_other_sites_can_neither_log_in_nor_out(browser, headers):
    """Whatever the browser adds by itself."""
    assert log_in(browser, **headers).status_code == 403
    assert log_in(browser, **{"sec-fetch-site": "same-origin"}).status_code == 303
    assert browser.post("/logout", headers=headers).status_code in (401, 403)
    assert browser.get("/").status_code == 200


def test_a_session_is_for_the_page_only(browser):
    """Pages of other ports, to which browsers send the cookie too, read nothing with it."""
    log_in(browser)
    for url in ("/", "/stream", "/snapshot", "/metrics", "/assets/page.css", "/history"):
        for site in ("same-site", "cross-site"):
            assert browser.get(url, headers={"sec-fetch-site": site}).status_code == 401, url
    assert browser.get("/health", headers={"origin": "http://127.0.0.1:1"}).status_code == 401
    opened = {"sec-fetch-site": "same-site", "sec-fetch-dest": "document"}
    assert browser.get("/", headers=opened).status_code == 200
    assert browser.get("/metrics", headers=opened).status_code == 401
    assert browser.get("/health", headers={"sec-fetch-site": "cross-site", **BEARER}).status_code in (
        200,
        503,
    )


def test_sessions_survive_a_restart_with_the_same_token(system):
    """And end with another token."""
    with serve_app(system, 0, bearer_token=TOKEN) as server, browsing(server.url) as browser:
        session = log_in(browser).headers["set-cookie"].partition(";")[0]
    for token, status in ((TOKEN, 200), ("other", 401)):
        with serve_app(system, 0, bearer_token=token) as server, browsing(server.url) as browser:
            assert browser.get("/", headers={"cookie": session}).status_code == status


def test_the_body_of_a_login_is_limited(system):
    """In size and in time."""
    with serve_app(system, 0, bearer_token=TOKEN, timeout=0.5) as server, browsing(server.url) as browser:
        assert log_in(browser, "x" * 4096).status_code == 413
        address = ("127.0.0.1", server.port)
        for sent, status in ((b"token=", 408), (b"token=" + b"x" * 5000, 413)):
            with socket.create_connection(address, TIMEOUT_SECONDS) as sock:
                # The rest of the body never arrives.
                sock.sendall(b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n" + sent)
                assert sock.recv(100).startswith(b"HTTP/1.1 %d " % status)


# -- paths -------------------------------------------------------------------------------------------------

TRAVERSALS = (
    *(
        "/assets/../endpoint.py",
        "/assets/..%2fendpoint.py",
        "/assets/%2e%2e/login.py",
        "/assets/%252e%252e/x",
    ),
    *("//etc/passwd", "/assets//etc/passwd", "/assets/%2fetc%2fpasswd", "/assets/page.css%00", "/%00"),
    *("/assets/page.css/", "/assets/login.html", "/assets/index.html", "/assets", "/assets/", "/index.html"),
    *("/assets/..\\login.py", "/assets/PAGE.CSS", "/assets/page.css%20", "//", "/./", "/assets/./page.css"),
    *("/history/../../x", "/history/x", "/history"),
)


def test_no_part_of_a_url_reaches_the_disk(browser):
    """Only the exact names are found."""
    url = str(browser.base_url).rstrip("/")
    assert raw(url, "/assets/page.css", f"Authorization: Bearer {TOKEN}")[0] == 200
    for target in TRAVERSALS:
        status, received = raw(url, target, f"Authorization: Bearer {TOKEN}")
        assert status == 404, target
        assert b"root:" not in received


def seen(url):
    """Return the path of a URL as a browser shows it."""
    return url.raw_path.decode()


def check_page_at(browser, path):
    """Check that the page works at a path, by its own relative links."""
    bare = browser.get(path.rstrip("/"), headers=HTML)
    if bare.status_code in (307, 308):  # a framework may redirect by itself
        bare = browser.get(bare.url.join(bare.headers["location"]), headers=HTML)
    (action,) = re.findall(r'action="([^"]*)"', bare.text)
    assert (bare.status_code, seen(bare.url.join(action))) == (401, f"{path}login")
    done = log_in(browser, path=f"{path}login")
    assert seen(done.url.join(done.headers["location"])) == path
    page = browser.get(path)
    assert page.status_code == 200
    for link in re.findall(r'(?:href|src)="(assets/[^"]*)"', page.text):
        assert browser.get(page.url.join(link)).status_code == 200, link
    redirect = browser.get(path.rstrip("/"))
    if path != "/":
        assert redirect.status_code in (307, 308)
        assert seen(redirect.url.join(redirect.headers["location"])) == path
    assert browser.get(f"{path}health").status_code in (200, 503)
    if path != "/":
        assert {cookie.path for cookie in browser.cookies.jar} == {path.rstrip("/")}


@pytest.mark.parametrize("path", ["/", "/internal/", "/a/b/", "/a b:c/"])
def test_it_works_under_a_prefix(system, path):
    """With relative links only. The cookie belongs to the path of the page."""
    prefix = path.rstrip("/")
    with serve_app(system, 0, bearer_token=TOKEN, prefix=prefix) as server, browsing(server.url) as browser:
        check_page_at(browser, httpx.URL(server.url).copy_with(path=path).raw_path.decode())


def test_it_works_mounted(system):
    """In FastAPI, also with a root path, and under a prefix of its own."""
    app = FastAPI()
    app.mount("/internal", make_app(system, bearer_token=TOKEN))
    app.mount("/more", make_app(system, bearer_token=TOKEN, prefix="/metrics-page"))
    for path in ("/internal/", "/more/metrics-page/"):
        with served(app) as address, browsing(f"http://{address}") as browser:
            check_page_at(browser, path)


def test_it_works_behind_a_proxy_that_strips_a_prefix(system):
    """With and without a root path, which the browser never sees, or sees as its own."""
    app = make_app(system, bearer_token=TOKEN)

    async def proxy(scope, receive, send):
        if scope["type"] == "http":
            stripped = scope["path"].removeprefix("/service") or "/"
            scope = {**scope, "path": stripped, "raw_path": stripped.encode()}
        await app(scope, receive, send)

    with served(proxy) as address, browsing(f"http://{address}") as browser:
        assert log_in(browser, path="/service/login").headers["location"] == "./"
        assert {cookie.path for cookie in browser.cookies.jar} == {"/service"}
        assert browser.get("/service/").status_code == 200
        assert browser.get("/service/assets/page.css").status_code == 200
    with served(app, root_path="/service") as address, browsing(f"http://{address}") as browser:
        assert log_in(browser).status_code == 303  # the server adds the root path to the path
        assert browser.get("/").status_code == 200


def test_it_can_be_switched_off(system):
    """Then there is neither a page nor a login, and no header of it."""
    others = ["metrics", "snapshot", "health", "stream"]
    with (
        serve_app(system, 0, bearer_token=TOKEN, endpoints=others) as server,
        browsing(server.url) as browser,
    ):
        refused = browser.get("/", headers=HTML)
        assert (refused.status_code, refused.text) == (401, "missing or invalid credentials\n")
        assert log_in(browser).status_code == 401
        for url in ("/", "/login", "/assets/page.css", "/assets/vega.js", "/history"):
            assert browser.get(url, headers=BEARER).status_code == 404
        assert "content-security-policy" not in browser.get("/", headers=BEARER).headers


# -- headers and files -------------------------------------------------------------------------------------


def test_every_response_has_the_security_headers(browser):
    """Whatever its status. Scrapes and the stream have none of them."""
    responses = [
        browser.get("/", headers=BEARER),
        browser.get("/", headers=HTML),
        browser.get("/"),
        browser.get("/other"),
        browser.get("/other", headers=BEARER),
        browser.post("/", headers=BEARER),
        browser.put("/assets/page.css", headers=BEARER),
        browser.get("/assets/page.css", headers=BEARER),
        browser.get("/assets/vega.js", headers=BEARER),
        browser.get("/history?x", headers=BEARER),
        log_in(browser, "wrong"),
        log_in(browser, **{"sec-fetch-site": "cross-site"}),
        log_in(browser, "x" * 5000),
        log_in(browser),
        browser.post("/logout"),
        browser.request("TRACE", "/login", headers=BEARER),
    ]
    tag = responses[7].headers["etag"]
    responses.append(browser.get("/assets/page.css", headers={"if-none-match": tag, **BEARER}))
    assert {each.status_code for each in responses} >= {200, 303, 304, 401, 403, 404, 405, 413}
    for response in responses:
        policy = policy_of(response)
        assert {**policy, "style-src": policy["style-src"][:1]} == POLICY
        assert "unsafe" not in str(policy)
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff"
        is_form = "<form" in response.text or (response.url.path == "/" and response.status_code == 200)
        assert headers["referrer-policy"] == ("same-origin" if is_form else "no-referrer")
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert len(headers.get_list("content-security-policy")) == 1
    assert "content-security-policy" not in browser.get("/metrics", headers=BEARER).headers


def test_files_are_compressed_and_validated(browser):
    """A cache keeps no document, and asks each time whether a file has changed."""
    for url, file in (("/", "index.html"), ("/assets/page.css", "page.css"), ("/assets/page.js", "page.js")):
        content = page_document(has_login=True).content if url == "/" else page_files()[file].content
        for encoding in ("gzip", "identity"):
            headers = {"accept-encoding": encoding, **BEARER}
            with browser.stream("GET", url, headers=headers) as response:
                body = b"".join(response.iter_raw())
            assert (gzip.decompress(body) if encoding == "gzip" else body) == content
            assert response.headers.get("content-encoding", "identity") == encoding
            assert int(response.headers["content-length"]) == len(body)
            assert response.headers["vary"] == "Accept-Encoding"
            if url == "/":
                assert response.headers["cache-control"] == "no-store"
                assert "etag" not in response.headers
                continue
            assert response.headers["cache-control"] == "no-cache"
            tag = response.headers["etag"]
            for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                again = browser.get(url, headers={**headers, "if-none-match": known})
                assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert browser.get(url, headers={**headers, "if-none-match": '"x"'}).status_code == 200
        head = browser.head(url, headers=BEARER)
        assert (head.status_code, head.content) == (200, b"")
    assert (
        browser.get("/assets/page.js", headers=BEARER).headers["content-type"].startswith("text/javascript")
    )
