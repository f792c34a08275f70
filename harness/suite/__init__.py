"""A suite file as frozen data: read, checked, made into cells; where models and data come from."""
