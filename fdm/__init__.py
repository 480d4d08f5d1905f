"""f-DM benchmark."""

__version__ = "0.1.0"
