"""Instrumentation of ASGI applications, HTTP clients, tasks and the event loop."""
