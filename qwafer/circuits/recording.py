"""PennyLane's recording of gates: one at a time in a process."""

import threading

RECORDING = threading.RLock()
"""Held while gates are recorded: PennyLane has one list of open recordings per process, which all threads share."""
