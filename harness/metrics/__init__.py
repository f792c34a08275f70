"""One file per metric; the file's name is the name in the suite's ``measure:``.

A metric module declares, without importing torch at its top:

- ``Options``: what the suite may set (`harness.descriptions.OptionsBase`).
- ``VALUES``: name -> `harness.descriptions.ValueSpec`, every value it reports.
- ``HEADLINE``: the columns it gives to the summary (`harness.descriptions.Column`).
- ``DETAILS``, optional: further columns, shown by ``pytest -v``.
- ``measure(engine, options, context)``: runs in the worker, returns a `Measured`.
- ``compare(candidate, reference)``: values against the reference's record, pure and torch-free.
- ``NEEDS_FRESH_PROCESS``: True where an earlier measurement in the process would disturb it.
- ``REFERENCE_REUSABLE``: False where a record of another run must not stand in (timings).
- ``NEEDS_TELEMETRY``, optional: True where a busy or throttled machine spoils its numbers.

where its numbers need words beside them:

- ``remarks(record)``: sentences for the summary's notes, from a completed record; torch-free.

where it may be repeated in fresh processes (``Options.processes``):

- ``merge_processes(measured)``: one `harness.records.record.Measured` of several; torch-free.

and, where it compares while it measures:

- ``NEEDS_REFERENCE``: True where ``measure`` reads the reference's record (``context.reference``).
- ``is_intact(record)``: whether what a reference left behind is still there; torch-free. Where it
  is not, the reference is measured again.
"""
