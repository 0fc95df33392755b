"""What runs beside us and ends with us: child processes (`lifeline`), and the embedded server (`server`)."""
