"""The live page of `make_app`: its files, its login, the chart library and the history of runs."""
