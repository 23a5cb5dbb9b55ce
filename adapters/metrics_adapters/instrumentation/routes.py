"""Finds the route of a request: its template, such as ``/orders/{id}``, through all mounts.

The routers of Starlette and FastAPI usually store the route in the scope. Below a mount, the stored route is
only the last part, so the routes are matched again from the top. No framework is imported: a route is an
object with ``matches`` and ``path_format``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metrics_adapters.http.types import Scope

UNMATCHED = "unmatched"
"""The tag of a request that matches no route."""

_MOUNT_SUFFIX = "/{path}"  # the end of a mount's template

NOT_FOUND = 404


class Route:
    """Finds the route of one request after the application has handled it.

    Args:
        scope: The scope of the request, before the application is called.
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
            status: The status of the response; ``None`` if there is none.
        """
        scope = self._scope
        # Requests that match no route, such as those of scanners, are not matched again.
        if status == NOT_FOUND and "endpoint" not in scope:
            return UNMATCHED
        if "app_root_path" not in scope:  # not below a mount
            route = scope.get("route")
            # An included router of FastAPI stores the whole path here; its routes have only their part.
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
        return _find_template(_routes_of(router), copy) or UNMATCHED


def _routes_of(app: Any) -> Iterable[Any]:
    """Return the routes of an application, which may be wrapped in middleware."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    routes: Iterable[Any] = getattr(app, "routes", None) or ()
    return routes


def _find_template(routes: Iterable[Any], scope: Scope) -> str | None:
    partial: tuple[Any, Scope] | None = None
    for route in routes:
        match, child = route.matches(scope)
        if match.name == "FULL":
            return _template_of(route, {**scope, **child})
        if match.name == "PARTIAL" and partial is None:  # the path matches, the method does not
            partial = (route, {**scope, **child})
    return None if partial is None else _template_of(*partial)


def _template_of(route: Any, scope: Scope) -> str | None:
    if hasattr(route, "effective_route_contexts"):  # an included router of FastAPI
        contexts = route.effective_route_contexts()
        return _find_template((getattr(one, "starlette_route", None) or one for one in contexts), scope)
    template: str = getattr(route, "path_format", "")  # a ``Host`` route has none
    if not hasattr(route, "routes"):
        return template
    below = route.routes or _routes_of(getattr(route, "app", None))
    if not below:  # an application without visible routes, such as static files
        return template or None
    inner = _find_template(below, scope)
    return None if inner is None else template.removesuffix(_MOUNT_SUFFIX) + inner
