"""One file per precision; the file's name is the name in the suite.

A precision module declares, without importing torch at its top:

- ``Options``: the inline variations a suite may set (`harness.descriptions.OptionsBase`).
- ``DEVICES``: the device types it runs on; ``MIN_CAPABILITY``, optional: the oldest CUDA cards.
- ``QUANTISERS``, optional: the functions of ``bitsandbytes.functional`` that quantise a weight
  while it is loaded; the time within them is stated apart.
- ``load_arguments(options, device)``: keyword arguments for ``from_pretrained``.
- ``prepare(model, options, device)``, optional: what must be set on the loaded model.
- ``check(attested, options, device)``: what differs between the declared and the loaded model.
"""
