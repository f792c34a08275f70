"""Running a suite: which measurement is next, where it is made, and which records are kept."""
