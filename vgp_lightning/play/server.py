"""Server: the verb ``vgp play``, which serves the page on this machine."""

import os
import socket
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any, Unpack

from vgp_lightning.agent.deployment import FIRST_SEED, Deployment
from vgp_lightning.agent.environments import check_seed
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.play.page import load_gradio, make_page, style
from vgp_lightning.play.session import Session
from vgp_lightning.play.view import first_dimensions
from vgp_lightning.play.visitors import Visit, Visitors

_LOOPBACK = ("127.0.0.1", "localhost")
_GRACE = 1  # seconds that open pages have to end after Ctrl-C
# The browser must not ask other machines for anything, whatever a version of Gradio has in its pages. Gradio needs
# inline scripts and styles, and makes functions of text.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'"
)
_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


def play(
    pipeline_folder: str,
    *,
    seed: int = FIRST_SEED,
    env_id: str | None = None,
    trust_environment: bool = False,
    max_episode_steps: int | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    visitors: int = 4,
    device: str = "auto",
    **settings: Unpack[Settings],
) -> None:
    """Show a planner live in the browser, beside its plans, with controls for how it plans; Ctrl-C ends it.

    The page is for this machine alone, unless ``host`` says otherwise, and asks no other machine for anything. It needs
    the extra ``web``: pip install "vgp_lightning[web]".

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        seed: Seed of the first episode, of the environment and of the planner's noise.
        env_id: Environment, such as Hopper-v5 or package:Id; by default the one the planner was trained for.
        trust_environment: Make the environment that the folder specifies even if it is not the one that gymnasium or
            gymnasium-robotics registers under its id. This runs whatever code the folder names.
        max_episode_steps: Time limit of an episode; by default the environment's own.
        host: Address to listen at; 0.0.0.0: all of this machine's, so that everybody in its network can use the page.
        port: Port to listen at; 0: a free one.
        open_browser: Open the page in the browser.
        visitors: How many may have the page open at the same time, each with an episode of their own.
        device: Where the planner runs, such as cpu or cuda:1; auto: cuda if there is one, else cpu.
        settings: Those in place of the folder's, to begin with.

    Raises:
        ValueError: If Gradio is not installed, the folder is not a planner's, does not fit the environment, a setting
            is wrong, or the port is in use.
    """
    check_seed(seed)
    with _listen(host, port) as listener:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # which Gradio reads when it is imported
        load_gradio()
        deployed = Deployment(pipeline_folder, env_id, device, trust_environment)

        def begin() -> Visit:
            session = Session(deployed, seed, max_episode_steps, **settings)
            return Visit(session, first_dimensions(deployed.pipeline.action_dim, deployed.pipeline.observation_dim))

        everybody = Visitors(begin, visitors)
        try:
            everybody.run(lambda: deployed.choose_threads(1, **settings))
            app = make_app(everybody, everybody.open("the first look"), host)
            everybody.leave("the first look")
            address = _name_address(listener)
            if host not in _LOOPBACK:
                print(f"listening at {host}: whoever reaches this machine over its network can use the page")
            print(f"{deployed.env_id} at {address} (Ctrl-C ends it)", flush=True)
            if open_browser:
                webbrowser.open(address)
            uvicorn = import_module("uvicorn")
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # the usual end
        finally:
            everybody.close()


def make_app(visitors: Visitors, first: Visit, host: str) -> Any:
    """Return the page as an ASGI application.

    Args:
        visitors: Those who have the page open.
        first: A visit as each begins.
        host: Address that the server listens at. If that is this machine's own, the application answers no request
            that names another host, as a page of another site would that has its name lead here (DNS rebinding).
    """
    gr = load_gradio()
    app = import_module("fastapi").FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    nothing = {"footer_links": [], "run_history": False, "ssr_mode": False, "enable_monitoring": False, "pwa": False}
    mounted = gr.mount_gradio_app(app, make_page(visitors, first), "/", **nothing, **style(gr), max_file_size="1kb")
    mounted.add_middleware(_Policy)
    if host in _LOOPBACK:
        trusted = import_module("starlette.middleware.trustedhost").TrustedHostMiddleware
        mounted.add_middleware(trusted, allowed_hosts=list(_LOOPBACK))
    return mounted


class _Policy:
    """Adds the content security policy to each answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        async def send_with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message.get("headers", []), policy]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def _name_address(listener: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: If it cannot.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}: a whole number between 0 and 65535 is needed")
    if host == "::1":  # Gradio would let the pages of any site that is open in the browser use this one
        raise ValueError("--host ::1 cannot be kept to this machine's own pages: give --host 127.0.0.1")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be listened at: {error.strerror or error}. --port 0 takes a free port"
        ) from error
