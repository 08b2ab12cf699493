"""The questions themselves: functions () -> (verdict, detail), run in a process of their own that may crash.

These modules import nothing of the room around them: a process that asks one question should not load them all.
"""
