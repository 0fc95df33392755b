"""What an attacker, a forger or a careless producer can do to a group, and what they cannot do."""
