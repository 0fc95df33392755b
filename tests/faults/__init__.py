"""Workers are killed, stopped, started and ended; connections are cut; servers are paused and restarted. The history check decides."""
