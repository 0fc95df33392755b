"""Messages from producers without our code."""
