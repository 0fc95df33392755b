"""The public API's types, as users see them: `as_users_type.py` and `mistakes.py` are checked, never run."""
