"""The loop on virtual time: real scripts, a simulated store, a schedule from a seed. `python -m tests.simulation --seed 7`."""
