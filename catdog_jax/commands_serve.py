"""The command `serve`: a page to drop photos on."""

from contextlib import suppress

from .arguments import Serve
from .commands import asked_classifier
from .errors import say


def serve_page(options: Serve) -> None:
    """Serve the page until Ctrl-C."""
    from .serve.guard import is_loopback
    from .serve.server import Server, address, listen, open_browser

    with listen(options.host, options.port) as listening:  # before the seconds that JAX takes
        from .serve.app import create_app

        app = create_app(asked_classifier(options.run), host=options.host)
        url = address(listening, options.host)

        def ready() -> None:
            if not is_loopback(options.host):
                say("note: whoever can reach this machine can use the page")
            say(f"drop photos on {url}  (Ctrl-C ends it)")
            if not options.no_browser:
                open_browser(url)

        with suppress(KeyboardInterrupt):
            Server(app, ready).run(sockets=[listening])
