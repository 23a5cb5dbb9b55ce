"""What helps to test code that measures, and adapters; it needs the extra ``testing`` (pytest)."""
