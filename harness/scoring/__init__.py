"""What metrics share in the worker: texts as tokens, stored distributions, questions, answers."""
