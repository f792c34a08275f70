"""The parts of `overhead.py`: one file per thing that the harness adds."""
