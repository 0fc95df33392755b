"""What operators see and do, on a real server, with no worker."""
