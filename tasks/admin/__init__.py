"""Operations on a running group: functions that return values, used by the commands and the dashboard."""
