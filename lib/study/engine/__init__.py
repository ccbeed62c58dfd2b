"""What does jobs side by side. Today: processes of this machine."""

from lib.study.engine.processes import default_workers, memory_kept, say, side_by_side

__all__ = ["default_workers", "memory_kept", "say", "side_by_side"]
