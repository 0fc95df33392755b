"""What an operator sees of a running group and does to it: functions that return values, for the commands and the dashboard."""
