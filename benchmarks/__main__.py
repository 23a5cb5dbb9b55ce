"""Runs every benchmark and prints its table."""

from __future__ import annotations

from benchmarks import import_time


def main() -> None:
    """Run them one after the other: side by side they would slow each other down."""
    import_time.main()


if __name__ == "__main__":
    main()
