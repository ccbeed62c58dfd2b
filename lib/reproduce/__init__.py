"""From a profile to a finished record: notebooks, published rows, figures again, one command line.

Stands above all other rooms: it runs the study and shows it.
"""
