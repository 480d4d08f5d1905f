"""f-DM benchmark."""
