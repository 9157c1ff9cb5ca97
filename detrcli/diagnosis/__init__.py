"""Rules that diagnose data and trainings: probable faults, most likely first, each with its evidence and remedy."""
