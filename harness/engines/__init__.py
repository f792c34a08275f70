"""How a model is loaded and asked. `base` is the contract; an engine is one file or folder."""
