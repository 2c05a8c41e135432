"""Start the page: port, allowed addresses, headers, and a folder for uploads that is removed with the server."""

from __future__ import annotations

import importlib.util
import io
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from barm.app.viewer import Limits, ShownImage, Viewer, find_examples
from barm.engine.signals import on_stop
from barm.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
SPARE = 4  # a file so much above the limit is cut off by the server; below, the page says what is wrong with it
SESSIONS = 64  # visitors whose image is kept
POLICY = (  # the browser itself refuses what the page must not do: talk to another host
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
)


@dataclass(frozen=True)
class Options:
    """Options of the server.

    Attributes:
        host: address to listen on.
        port: a free one by default.
        share: ask gradio.live for a public address; never on by itself.
        open_browser: show the page at once.
        limits: of uploads.
        data: folder of a data set for the example images; the run's own by default.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    open_browser: bool = False
    limits: Limits = field(default_factory=Limits)
    data: Path | None = None


DEFAULT = Options()


def serve(paths: Sequence[Path | str], options: Options = DEFAULT, say: Callable[[str], None] = print) -> None:
    """Serve the page of one or two runs until Ctrl-C.

    Args:
        paths: the runs' folders.
        options: how it is served; the defaults of `Options` if not given.
        say: called with the address of the page.

    Raises:
        UserError: without gradio, for a folder that is no run, or a port that is taken.
    """
    check_installed()
    if not 1 <= len(paths) <= 2:
        raise UserError(f"expected one run or two to compare, got {len(paths)}: `barm compare` takes any number")
    options = replace(options, port=choose_port(options.host, options.port))
    viewer = Viewer([Path(path) for path in paths])
    examples = find_examples(viewer.runs[0], options.limits, options.data)
    with serving(viewer, options, examples) as (page, address):
        for line in _where(options, address, page.share_url, len(examples)):
            say(line)
        _wait()


@contextmanager
def serving(viewer: Viewer, options: Options, examples: Sequence[ShownImage]) -> Iterator[tuple[Any, str]]:
    """Serve from a thread of its own; yields the `gradio.Blocks` and the address, and cleans up afterwards."""
    port = options.port or choose_port(options.host, None)
    host = f"[{options.host}]" if ":" in options.host else options.host
    with _private_environment(), _tunnels(port):
        page = _start(viewer, options, port, examples)
        try:
            yield page, f"http://{host}:{port}/"
        finally:
            page.close(verbose=False)


def check_installed() -> None:
    """Complain in one line if gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("`barm serve` needs gradio, which is not installed: pip install 'barm-seg[app]'")


def choose_port(host: str, port: int | None) -> int:
    """The port if it is free, or any free one by default.

    Raises:
        UserError: if it is taken, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror:
        raise UserError(f"no address for --host {host}: give 127.0.0.1, or an address of this machine") from None
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port or 0} ({os.strerror(error.errno or 0).lower()}): give another --port, or "
            "leave it out for a free one"
        ) from None


def _start(viewer: Viewer, options: Options, port: int, examples: Sequence[ShownImage]) -> Any:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from barm.app.page import Page

    middleware = [Middleware(_Headers)]
    if options.host in LOOPBACK and not options.share:  # a foreign name that leads here is another page's trick
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"]))
    page = Page(viewer, options.limits, examples).blocks
    page.queue(default_concurrency_limit=4, max_size=64)
    page.launch(
        server_name=options.host,
        server_port=port,
        share=options.share,
        inbrowser=options.open_browser,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        max_file_size=int(SPARE * options.limits.megabytes * 2**20),
        state_session_capacity=SESSIONS,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        inline=False,
        app_kwargs={"middleware": middleware, "docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=[gr.themes.Font(name) for name in FONTS],  # the visitor's own: none is loaded
            font_mono=[gr.themes.Font("monospace")],
        ),
        css=resources.files("barm.app").joinpath("page.css").read_text("utf-8"),
    )
    return page


@contextmanager
def _tunnels(port: int) -> Iterator[None]:
    """End the tunnel processes of a public address, which gradio would keep until the interpreter ends."""
    from gradio import tunneling

    known: list[Any] = tunneling.CURRENT_TUNNELS
    try:
        yield
    finally:
        for tunnel in [t for t in known if t.local_port == port]:
            with redirect_stdout(io.StringIO()):  # gradio prints what it ends
                tunnel.kill()
            known.remove(tunnel)


def _wait() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    stop = threading.Event()
    with on_stop(lambda _: stop.set()):
        while not stop.wait(3600):
            pass


class _Headers:
    """Add the content security policy to every answer, and keep browsers from passing the address on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


@contextmanager
def _private_environment() -> Iterator[None]:
    """Run gradio without telemetry, without other people's settings, and with a temporary folder of its own."""
    before = dict(os.environ)
    loopback = ",".join(LOOPBACK)
    with tempfile.TemporaryDirectory(prefix="barm-serve-") as folder:
        for name in [n for n in os.environ if n.startswith("GRADIO_")]:
            del os.environ[name]
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)
        for name in ("NO_PROXY", "no_proxy"):  # gradio asks its own server whether it is there
            os.environ[name] = ",".join(filter(None, (before.get(name), loopback)))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _where(options: Options, address: str, public: str | None, examples: int) -> Iterator[str]:
    yield f"Open {address} in a browser; Ctrl-C ends it"
    if not examples:
        yield "No example images, for the run's validation data are not there: --data DIR says where they are"
    if options.share:
        yield f"Anybody who knows {public} can use this page" if public else "No public address could be had"
    elif options.host not in LOOPBACK:
        yield "Anybody who can reach this machine can use this page: there is no password"
