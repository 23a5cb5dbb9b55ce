"""The adapters that come with metrics-framework. Import the one you want: nothing is loaded from here."""
