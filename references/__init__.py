"""Slow, literal versions, one for each fast path: what a method says, written out step by step.

Tests hold `lib` to them; `bench` times some of them; notebook 02 runs two. Nothing in `lib` uses
them.
"""
