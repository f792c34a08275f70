"""The process boundary: start a cell's process, ask it to measure, survive its death."""
