"""Files of the live board."""
