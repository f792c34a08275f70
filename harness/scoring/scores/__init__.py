"""`evaluate.Metric` classes that score predictions, one per file, each usable by itself.

    from harness.scoring.scores.exact_match import ExactMatch
    ExactMatch().compute(predictions=["1,000"], references=["1000"], regexes_to_ignore=[","])

They need no hub, and they write nothing: unless asked otherwise they keep their inputs in memory.
"""
