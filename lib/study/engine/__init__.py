"""What does jobs side by side. Today: processes of this machine."""

from lib.study.engine.processes import memory_kept, say, side_by_side

__all__ = ["memory_kept", "say", "side_by_side"]
