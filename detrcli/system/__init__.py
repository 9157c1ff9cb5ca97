"""Files, locks, devices, processes and memory."""
