"""Which route a request took: its template, such as ``/orders/{id}``, whatever mounts it lies below.

A router that says which route it took, as Starlette's and FastAPI's do for the most part, is believed. Where
there are mounts, each says its own part only; then the routes are gone through once more. Nothing is
imported: a route is what has ``matches`` and ``path_format``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metrics_adapters.http.types import Scope

UNMATCHED = "unmatched"
"""The route of what no route was there for."""

_BELOW = "/{path}"  # how the template of a mount ends

NOT_FOUND = 404


class Route:
    """Finds the route of one request, once the application has dealt with it.

    Args:
        scope: The request's scope, before the application gets it.
        app: The application.
    """

    __slots__ = ("_app", "_root_path", "_scope")

    def __init__(self, scope: Scope, app: object) -> None:
        self._scope = scope
        self._app = scope.get("app", app)
        self._root_path: str = scope.get("app_root_path", scope.get("root_path", ""))

    def template(self, status: int | None) -> str:
        """Return the route's template, or `UNMATCHED`.

        Args:
            status: The status of the response, where there is one.
        """
        scope = self._scope
        if (
            status == NOT_FOUND and "endpoint" not in scope
        ):  # whoever scans for pages is not looked after twice
            return UNMATCHED
        if "app_root_path" not in scope:  # no mount was passed
            route = scope.get("route")
            # A router of FastAPI that is included in another one knows the whole path, its routes do not.
            included = scope.get("fastapi", {}).get("effective_route_context")
            if included is not None and getattr(included, "original_route", None) is route:
                route = included
            template = getattr(route, "path_format", None)
            if template:
                return str(template)
        router = scope.get("router", self._app)
        copy = {**scope, "root_path": self._root_path, "path_params": {}}
        for key in ("route", "endpoint", "fastapi", "app_root_path"):
            copy.pop(key, None)
        return _walk(_routes_of(router), copy) or UNMATCHED


def _routes_of(app: Any) -> Iterable[Any]:
    """Return the routes of an application, or of the one that middleware is wrapped around."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    routes: Iterable[Any] = getattr(app, "routes", None) or ()
    return routes


def _walk(routes: Iterable[Any], scope: Scope) -> str | None:
    partial: tuple[Any, Scope] | None = None
    for route in routes:
        match, child = route.matches(scope)
        if match.name == "FULL":
            return _descend(route, {**scope, **child})
        if match.name == "PARTIAL" and partial is None:  # the path is right, the method is not
            partial = (route, {**scope, **child})
    return None if partial is None else _descend(*partial)


def _descend(route: Any, scope: Scope) -> str | None:
    if hasattr(route, "effective_route_contexts"):  # a router that FastAPI has included
        contexts = route.effective_route_contexts()
        return _walk((getattr(context, "starlette_route", None) or context for context in contexts), scope)
    template: str = getattr(route, "path_format", "")  # a host has none
    if not hasattr(route, "routes"):
        return template
    below = route.routes or _routes_of(getattr(route, "app", None))
    if not below:  # an application that keeps its routes to itself, such as files
        return template or None
    inner = _walk(below, scope)
    return None if inner is None else template.removesuffix(_BELOW) + inner
