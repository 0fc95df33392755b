"""The worker's loop on virtual time: real scripts, a simulated store, and a schedule from a seed. `python -m tests.simulation --seed 7`."""
