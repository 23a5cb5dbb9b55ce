"""HTTP endpoints: scrapes, streams, health and snapshots over ASGI, WSGI and a small server."""
