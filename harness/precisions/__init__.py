"""One file per precision; the file's name is the name in the suite.

A file holds ``PRECISION``, a `harness.descriptions.Precision`, and imports no torch at its top: the
host reads it too. A quantised precision also brings the `LayerReader` of its library's layers.
"""
