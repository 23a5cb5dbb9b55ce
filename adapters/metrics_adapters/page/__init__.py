"""The live page of a system in a browser, served by the web application."""
