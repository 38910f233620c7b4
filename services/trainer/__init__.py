"""The trainer service: a cron expression starts training when there is new approved data."""
