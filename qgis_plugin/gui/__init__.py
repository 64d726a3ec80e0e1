"""What the user sees. Widgets are read into dataclasses and handed to core."""
