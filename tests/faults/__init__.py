"""Workers killed, stopped, joined and left; connections cut; servers paused and restarted. The history check judges."""
