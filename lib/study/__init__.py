"""What makes the science a study: profiles, keys, a store, products, arms, what is still missing.

    profile = load("compact", seeds="1-3")           # lib.study.profile
    complete(profile)                                # lib.study.jobs
    collect(profile)["runs"]                         # lib.study.tables

From a shell: `python -m lib.study --profile paper --seeds 1-10 --shard 2/4`.
"""
