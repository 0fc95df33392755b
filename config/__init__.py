"""The ground: values only. `settings` alone reads the environment; nothing here imports from `tasks`."""
